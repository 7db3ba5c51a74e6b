"""Pictures: pixels in memory, files, bands and tiles."""
