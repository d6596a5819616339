"""Pins: the SHA-256 of every file of a bundle, recorded when it is installed and checked each time it is loaded.

A bundle is code (`ai.inference.bundle_model`), so a file that changed after an administrator checked it must not run.
The pins of the shipped bundles are in ``bundles/pins.json``. After a change of a shipped bundle, write that file again
with ``python -m ai.bundle.pins``.
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
    """The files of a bundle are not those that were pinned."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A bundle with its pins. It can be pickled, so that the warm process checks the files itself.

    Args:
        path: the directory of the bundle.
        files: path inside the bundle (with ``/``) -> SHA-256 in hex. None if the bundle is not pinned, as in a test.
        remedy: what IT can do if a file has changed; it ends the error message.
        fault: why the pins cannot be used, empty if they can.
    """

    path: Path
    files: Mapping[str, str] | None = None
    remedy: str = ""
    fault: str = ""

    def faults(self) -> list[str]:
        """One line for each file that was changed, removed or added. Empty if all files match their pins.

        Raises:
            BundleError: the bundle does not exist, a file cannot be read, or the pins cannot be used.
        """
        if self.fault:
            raise TamperedError(self.fault)
        if self.files is None:
            return []
        found = file_digests(self.path)
        lines = {name: f"{self.path / name}: is missing" for name in self.files.keys() - found.keys()}
        lines |= {
            name: f"{self.path / name}: was added after the model was checked"
            for name in found
            if name not in self.files
        }
        lines |= {
            name: f"{self.path / name}: was changed after the model was checked"
            for name, digest in found.items()
            if self.files.get(name, digest) != digest
        }
        return [lines[name] for name in sorted(lines)]

    def check(self) -> None:
        """Refuse a bundle whose files do not match their pins.

        Raises:
            TamperedError: the message names the first file, the number of further ones, and the remedy.
        """
        # Python must not write compiled modules into the bundle: they would count as added files.
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
    """The shipped bundles, by name, each with its pins. A bundle without pins cannot be loaded."""
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
    """Pin the present files of every shipped bundle."""
    pins = {name: file_digests(path) for name, path in shipped().items()}
    _FILE.write_text(json.dumps(pins, indent=4, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
