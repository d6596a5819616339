"""Every text that a reader sees, in each language."""
