"""One DICOM image as a radiologist sees it: pixels, the grayscale pipeline, colour, frames."""
