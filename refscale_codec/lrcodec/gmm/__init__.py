"""The learned low-res codec: latents under Gaussian mixtures, coded in integers."""
