"""dicom-node: a PACS-integrated AI node that receives, reads and returns DICOM studies."""

__version__ = "0.1.0"
