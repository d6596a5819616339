"""The SHA-256 of every file of a bundle, written down when it was trusted and compared each time that it is loaded.

A bundle is code (`ai.inference.bundle_model`), so a file that changed after an administrator looked at it must never
run. The bundles that ship are pinned in ``bundles/pins.json``; ``python -m ai.bundle.pins`` writes it anew after one of
them was changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ai.bundle.files import BundleError, file_digests, shipped

_FILE: Final = Path(__file__).parent.parent / "bundles" / "pins.json"


class TamperedError(BundleError):
    """The files of a bundle are not those that were trusted."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A bundle and what its files must be; picklable, so that the warm process can look for itself.

    Args:
        path: the directory of the bundle.
        files: path inside the bundle (with ``/``) -> SHA-256 in hex; None where nobody pinned it, as in a test.
        remedy: what IT can do where a file is not what it was; ends the message.
        fault: why the pins themselves cannot be used; empty where they can.
    """

    path: Path
    files: Mapping[str, str] | None = None
    remedy: str = ""
    fault: str = ""

    def faults(self) -> list[str]:
        """One line for each file that is changed, missing or too many; empty where all is as it was pinned.

        Raises:
            BundleError: the bundle is not there, a file cannot be read, or the pins cannot be used.
        """
        if self.fault:
            raise TamperedError(self.fault)
        if self.files is None:
            return []
        found = file_digests(self.path)
        told = {name: f"{self.path / name}: is missing" for name in self.files.keys() - found.keys()}
        told |= {
            name: f"{self.path / name}: was added after the model was checked"
            for name in found
            if name not in self.files
        }
        told |= {
            name: f"{self.path / name}: was changed after the model was checked"
            for name, digest in found.items()
            if self.files.get(name, digest) != digest
        }
        return [told[name] for name in sorted(told)]

    def check(self) -> None:
        """Refuse a bundle that is not what was pinned.

        Raises:
            TamperedError: it names the first file, and how many more there are, and what to do.
        """
        # A module that the bundle brings must not leave its compiled form there: it would be a file too many.
        sys.dont_write_bytecode = True
        try:
            faults = self.faults()
        except BundleError as error:
            raise TamperedError(str(error)) from None
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise TamperedError(
                f"{faults[0]}{more}; the model is not loaded{'; ' + self.remedy if self.remedy else ''}"
            )


def shipped_pins() -> dict[str, Pinned]:
    """The bundles that come with the package, each with its pins; one without pins cannot be loaded."""
    try:
        pins = json.loads(_FILE.read_bytes())
    except (OSError, ValueError):
        pins = {}
    remedy = "install the node anew: its own files have changed"
    return {
        name: Pinned(path, pins[name], remedy)
        if name in pins
        else Pinned(path, {}, fault=f"{path}: is not pinned in {_FILE.name}; python -m ai.bundle.pins pins what ships")
        for name, path in shipped().items()
    }


def main() -> None:
    """Pin every shipped bundle as it lies there now."""
    pins = {name: file_digests(path) for name, path in shipped().items()}
    _FILE.write_text(json.dumps(pins, indent=4, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
