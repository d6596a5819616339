"""The model card of ``chest_xray``."""
