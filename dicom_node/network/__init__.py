"""The DICOM protocol on a socket, as acceptor and as requestor of associations, without any policy."""
