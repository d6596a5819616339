"""Selects the images of a study that a model reads, by their headers."""
