"""Benchmarks: measure the node on this machine."""
