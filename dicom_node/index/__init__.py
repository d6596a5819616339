"""The index: the only room that says SQL."""
