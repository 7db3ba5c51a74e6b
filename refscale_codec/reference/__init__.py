"""The reference: registration to the picture, warping, and prediction between bands."""
