"""Builds volumes in patient coordinates from series of slices."""
