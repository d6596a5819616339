"""A MONAI bundle on disk: its files, its manifest, its pinned digests, and the parts that are built from it."""
