"""The reference: where it lies on the picture, and how it is brought there."""
