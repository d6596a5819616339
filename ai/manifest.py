"""``configs/reading.json``: what a MONAI bundle does not say of itself and a hospital must know.

It stands beside MONAI's own ``metadata.json`` and ``inference.json`` and tells which images the model takes, what each
output channel means in coded terms, the operating thresholds, and what the model is meant for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai.contract import Code

Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeSpec(_Strict):
    """A coded concept (PS3.3 8.8); the meaning is limited to the 64 characters of VR LO."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]

    def code(self) -> Code:
        """The same concept as the type that travels."""
        return Code(self.value, self.scheme, self.meaning)


class InputSpec(_Strict):
    """Which images the model takes; ``""`` in a list admits an attribute that is absent or empty. Case-blind.

    ``view`` is ViewPosition (0018,5101). At most ``max_images`` images of a study are read.
    """

    modality: tuple[str, ...]
    body_part: tuple[str, ...]
    view: tuple[str, ...]
    max_images: Annotated[int, Field(ge=1, le=64)] = 8


class Output(_Strict):
    """One output channel of the network: its meaning and its operating point.

    ``threshold`` is on the score (probability) of a region or of the image; ``map_threshold`` tells which cells of the
    probability map belong to a region; a region smaller than ``min_area`` cells (of the network's grid) is dropped.
    """

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    channel: Annotated[int, Field(ge=0)]
    code: CodeSpec
    site: CodeSpec | None = None
    threshold: Probability
    map_threshold: Probability
    min_area: Annotated[int, Field(ge=1)] = 1


class ReadingSpec(_Strict):
    """The whole of ``reading.json``."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    task: Literal["regions"]
    manufacturer: Annotated[str, Field(min_length=1, max_length=64)]
    intended_use: Text
    notice: Annotated[str, Field(max_length=128)] = ""
    input: InputSpec
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> ReadingSpec:
        for what in ("key", "channel"):
            values = [getattr(output, what) for output in self.outputs]
            if len(set(values)) != len(values):
                raise ValueError(f"outputs: each {what} may stand once, got {values}")
        return self


def load_reading_spec(path: Path) -> ReadingSpec:
    """Read and check a ``reading.json``.

    Raises:
        ValueError: it cannot be read or breaks the schema; the message names the file and each place.
    """
    try:
        return ReadingSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise ValueError(f"{path}: {places}") from error
