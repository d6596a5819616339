"""Replacements for the transforms of a bundle that read or write files. The node reads and writes files itself.

This module imports MONAI. `ai.bundle.build` names the classes by their path, so that only a process that loads a bundle
imports it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform


class Given(MapTransform):  # type: ignore[misc]
    """Replaces ``LoadImaged``. The dictionary already holds the image, in the form that ``LoadImaged`` would return.

    Args:
        keys: as in ``LoadImaged``; keys that the dictionary lacks (a label) are skipped.
        ensure_channel_first: as in ``LoadImaged``.
        meta_keys, meta_key_postfix: the keys of the copies of the metadata, as in ``LoadImaged``.
        _rest: further arguments of ``LoadImaged``, which concern files and are ignored.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        ensure_channel_first: bool = False,
        meta_keys: KeysCollection | None = None,
        meta_key_postfix: str | None = "meta_dict",
        **_rest: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self._first = EnsureChannelFirst() if ensure_channel_first else None
        self._meta_keys = (meta_keys,) if isinstance(meta_keys, str) else meta_keys
        self._postfix = meta_key_postfix or "meta_dict"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pass on the image, with the channel first if asked, and a copy of its metadata under the bundle's key."""
        item = dict(data)
        for number, key in enumerate(self.keys):
            if key not in item:
                continue
            image = self._first(item[key]) if self._first else item[key]
            item[key] = image
            if isinstance(image, MetaTensor):
                name = self._meta_keys[number] if self._meta_keys else f"{key}_{self._postfix}"
                item[name] = dict(image.meta)
        return item


class Unwritten(MapTransform):  # type: ignore[misc]
    """Replaces a transform that writes files. It passes on its input unchanged."""

    def __init__(self, keys: KeysCollection = "pred", **_rest: Any) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pass on the data unchanged."""
        return dict(data)
