"""The conditional invertible network: `blocks`, `refnet`, `net`, and `tiled`, which runs it."""
