"""The command line: ``python -m ai.training.field train --data ../shared/data/cxr`` writes the weights.

``measure`` in place of ``train`` prints the figures of docs/reference/where.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from ai.training.field import __doc__ as about
from ai.training.field.data import films, phantoms
from ai.training.field.fit import Fitting
from ai.training.field.measure import false_refusals, on_dicom, on_films, on_phantoms, places_on_films, seconds

WEIGHTS = Path(__file__).parent.parent.parent / "anatomy" / "field.pt"


def main() -> None:
    """Train and write the weights, or measure those that ship."""
    parser = argparse.ArgumentParser(prog="python -m ai.training.field", description=(about or "").split("\n")[0])
    parser.add_argument("command", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the images")
    parser.add_argument("--dicom", type=Path, nargs="*", default=(), help="folders of real radiographs to measure on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phantoms", type=int, help="1500 to train on, 500 to measure on")
    parser.add_argument("--steps", type=int, default=1100, help="batches of each of the two stages")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the file that is written")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other cost more than so small a network gains
    if given.command == "train":
        _train(given)
    else:
        _measure(given)


def _measure(given: argparse.Namespace) -> None:
    print(json.dumps({"seconds": seconds()}, indent=4), flush=True)
    films_ = on_films(given.data)
    print(json.dumps({"films": films_, "false refusals": false_refusals(films_)}, indent=4), flush=True)
    print(json.dumps({"dicom": on_dicom(given.dicom)}, indent=4), flush=True)
    print(json.dumps({"phantoms": on_phantoms(given.phantoms or 500)}, indent=4), flush=True)
    print(json.dumps({"places": places_on_films(given.data)}, indent=4), flush=True)


def _train(given: argparse.Namespace) -> None:
    started = time.monotonic()
    count = given.phantoms or 1500
    drawn = phantoms(range(100_000, 100_000 + count))
    loose = films(given.data)
    print(f"{len(loose)} films, {count} phantoms, {time.monotonic() - started:.0f} s", file=sys.stderr)
    fitting = Fitting(given.seed)
    outlined = None
    for stage in range(2):
        fitting.run(drawn, outlined, loose, given.steps, 2e-3 if stage else 3e-3)
        halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in fitting.network.state_dict().items()}
        torch.save(halves, given.out)
        if stage == 0:
            outlined = fitting.outline(loose)
            print(f"{len(outlined.pictures)} films outlined, {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
