"""Trains the demonstration model ``phantom_cxr`` on drawn radiographs."""
