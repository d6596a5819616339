"""Which images of a study a model reads, chosen by their headers."""
