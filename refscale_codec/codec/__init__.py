"""The pipeline: picture and reference to a file, and back."""
