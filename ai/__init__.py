"""Reads images with MONAI models. Knows DICOM pixels and models, but no network and no database."""
