"""The conditional invertible network: `blocks`, `refnet`, `net` and its `weights` file."""
