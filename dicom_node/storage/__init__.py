"""Files of images and results on disk. Only this package builds a path."""
