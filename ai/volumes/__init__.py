"""A series of slices as one volume in patient coordinates."""
