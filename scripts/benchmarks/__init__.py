"""Measures the node on this machine."""
