"""Encoded DICOM data without a socket: elements, headers (PS3.5), file meta information (PS3.10)."""
