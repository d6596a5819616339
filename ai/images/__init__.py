"""Displays one DICOM image as a viewer does: stored pixels, greyscale pipeline, colours, frames."""
