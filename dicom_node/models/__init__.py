"""The models that are installed: where they come from, which are pinned, how far two agree."""
