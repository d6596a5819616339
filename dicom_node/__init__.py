"""dicom-node: an AI node for a PACS. It receives DICOM studies, reads them with models, and returns the results."""

__version__ = "0.1.0"

#: Implementation Class UID (PS3.7 D.3.3.2): in the file meta information of every file written, and in associations.
IMPLEMENTATION_CLASS_UID = "2.25.178240398763441022353421230917349382912"
IMPLEMENTATION_VERSION = f"DICOM-NODE {__version__}"[:16]
