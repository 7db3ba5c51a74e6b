"""The low-res codec on JPEG's transform: quantised DCT coefficients and their entropy coding."""
