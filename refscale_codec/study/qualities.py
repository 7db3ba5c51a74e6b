"""Qualities that curves are measured at: of each coder, from about 0.1 bits per pixel to beyond 1."""

REFSCALE = {1: (75, 84, 90, 94, 97, 99), 2: (10, 35, 60, 78, 90, 96), 4: (8, 30, 55, 75, 88, 96)}
"""Of refscale among other coders, by scale."""

DOWNSCALED = (5, 15, 30, 50, 70, 83, 92, 97)
"""Of any coder of a picture of half or a quarter the size."""

JPEG = (3, 10, 25, 45, 65, 80, 90, 95)
"""Of JPEG at full size, among other coders."""

WEBP = (1, *JPEG[1:])
"""Of WebP and JPEG XL."""

JPEG_DENSE = (3, 6, 10, 15, 22, 30, 40, 50, 60, 70, 80, 87, 92, 95, 97)
"""Of JPEG at full size as the anchor of BD-rates, whose curve must be sampled densely."""
