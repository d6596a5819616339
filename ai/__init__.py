"""Reading images: knows DICOM pixels and MONAI models, and neither a network nor a database."""
