"""PS3.5 and PS3.10 without a socket: elements, headers, file meta information."""
