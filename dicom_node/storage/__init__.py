"""Files of images and results: the only room that makes a path."""
