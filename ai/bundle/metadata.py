"""Checks ``configs/metadata.json`` against MONAI's bundle specification.

MONAI downloads a JSON schema for this. A hospital's node downloads nothing, so the rules stand here. Source: MONAI
Bundle Specification, "metadata.json File" (MONAI 1.6). The specification allows further keys of the author's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

Line = Annotated[str, Field(min_length=1)]
_TENSORS = frozenset({"image", "series", "tuples", "probabilities"})


class _Open(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class _Value(_Open):
    """An input or output that is no single tensor, such as a detector's boxes. Its form is not specified."""

    type: Line


class _Tensor(_Open):
    """A tensor format specifier: kind, shape and meaning of an input or output of the network."""

    type: Literal["image", "series", "tuples", "probabilities"]
    format: Line
    modality: Line = "n/a"
    num_channels: Annotated[int, Field(ge=1)]
    spatial_shape: list[Annotated[int, Field(ge=1)] | Line]
    dtype: Line
    value_range: list[float]
    is_patch_data: bool
    channel_def: dict[str, Any]

    @model_validator(mode="after")
    def _ranged(self) -> _Tensor:
        if len(self.value_range) not in (0, 2):
            raise ValueError(f"value_range has {len(self.value_range)} numbers; a least and a greatest, or none")
        if len(self.value_range) == 2 and self.value_range[0] > self.value_range[1]:
            raise ValueError(f"value_range goes from {self.value_range[0]:g} down to {self.value_range[1]:g}")
        return self


def _kind(value: Any) -> str:
    return "tensor" if not isinstance(value, dict) or value.get("type") in _TENSORS else "value"


_Format = Annotated[Annotated[_Tensor, Tag("tensor")] | Annotated[_Value, Tag("value")], Discriminator(_kind)]


class _DataFormat(_Open):
    inputs: Annotated[dict[str, _Format], Field(min_length=1)]
    outputs: Annotated[dict[str, _Format], Field(min_length=1)]


class _Metadata(_Open):
    version: Line
    monai_version: Line
    pytorch_version: Line
    numpy_version: Line
    optional_packages_version: dict[str, str] = {}
    required_packages_version: dict[str, str] = {}
    task: Line
    description: Line
    authors: Line
    copyright: Line
    network_data_format: _DataFormat
    changelog: dict[str, str] = {}
    intended_use: str = ""
    data_source: str = ""
    data_type: str = ""
    references: list[str] = []


def metadata_faults(metadata: dict[str, Any]) -> list[str]:
    """One line for each fault: the dotted key and what was expected. Empty if the file follows the specification."""
    try:
        _Metadata.model_validate(metadata)
    except ValidationError as error:
        return [f"{_key(e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
    return []


def _key(place: tuple[str | int, ...]) -> str:
    """The dotted key, without the names of the two forms that an input or output may have."""
    return ".".join(str(part) for part in place if part not in ("tensor", "value")) or "file"
