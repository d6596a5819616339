"""The DICOM protocol on a socket, for who is called and who calls: no service and no policy."""
