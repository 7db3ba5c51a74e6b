"""Qualities that curves are measured at: of each coder, from about 0.1 bits per pixel to beyond 1."""

DOWNSCALED = (5, 15, 30, 50, 70, 83, 92, 97)
"""Of what codes a picture of half or a quarter the size."""

JPEG = (3, 10, 25, 45, 65, 80, 90, 95)
"""Of JPEG at full size, among other coders."""

WEBP = (1, *JPEG[1:])
"""Of WebP and JPEG XL."""

JPEG_DENSE = (3, 6, 10, 15, 22, 30, 40, 50, 60, 70, 80, 87, 92, 95, 97)
"""Of JPEG at full size as the anchor of BD-rates, where its curve must be close."""
