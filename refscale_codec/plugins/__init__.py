"""`.rsc` files where other libraries open theirs: xarray (an entry point) and Pillow (`register`)."""
