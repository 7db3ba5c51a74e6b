"""An index of references: which pictures are at hand, which of them fit a new one, and which files need them."""
