"""How the demonstration model is trained, on drawn radiographs."""
