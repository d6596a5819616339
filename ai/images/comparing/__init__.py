"""What is read of an image to tell whether another one says the same: whole elements, and decoded frames."""
