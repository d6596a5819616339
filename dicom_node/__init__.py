"""dicom-node: a PACS-integrated AI node that receives, reads and returns DICOM studies."""

__version__ = "0.1.0"

#: Ours, made once (PS3.7 D.3.3.2): in the meta information of every file that we write and in every association.
IMPLEMENTATION_CLASS_UID = "2.25.178240398763441022353421230917349382912"
IMPLEMENTATION_VERSION = f"DICOM-NODE {__version__}"[:16]
