"""Picture files: reading and writing them with what they say."""
