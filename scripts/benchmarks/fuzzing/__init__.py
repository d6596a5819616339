"""Hostile bytes by the hundred thousand, and what the node answers."""
