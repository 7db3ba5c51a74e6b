"""The `.rsc` file: header and sections."""
