"""Stand-ins for the transforms of a bundle that read or write files: the node reads and writes them itself.

Imports MONAI: `ai.bundle.build` names these by their path, so that only a process that loads a bundle pays for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform


class Given(MapTransform):  # type: ignore[misc]
    """In the place of ``LoadImaged``: the image is there already, as that transform would have read it.

    Args:
        keys: as of ``LoadImaged``; keys for which nothing is given (a label) are left out.
        ensure_channel_first: as of ``LoadImaged``.
        meta_keys, meta_key_postfix: where the metadata are repeated, as of ``LoadImaged``.
        _rest: what else ``LoadImaged`` takes is about files.
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
        """Hand on the image that is there, with its channel first and its metadata under the key of the bundle."""
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
    """In the place of a transform that writes files: hands everything on."""

    def __init__(self, keys: KeysCollection = "pred", **_rest: Any) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Hand on the data as it came."""
        return dict(data)
