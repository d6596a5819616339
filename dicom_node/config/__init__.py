"""The configuration file that IT edits: its keys, their values, and how it is read."""
