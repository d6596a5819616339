"""A MONAI bundle on the disk: its files, its manifest, its pins, and how its parts are built."""
