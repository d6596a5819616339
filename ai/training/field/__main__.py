"""The command line: ``python -m ai.training.field --data ../shared/data/cxr`` trains, and writes the weights."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from ai.training.field.data import films, phantoms
from ai.training.field.fit import Fitting

WEIGHTS = Path(__file__).parent.parent.parent / "anatomy" / "field.pt"


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m ai.training.field")
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the images")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phantoms", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1100, help="batches of each of the stages")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the file that is written")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other cost more than so small a network gains
    started = time.monotonic()
    drawn = phantoms(range(100_000, 100_000 + given.phantoms))
    loose = films(given.data)
    print(f"{len(loose)} films, {given.phantoms} phantoms, {time.monotonic() - started:.0f} s", file=sys.stderr)
    fitting = Fitting(given.seed)
    outlined = None
    for stage in range(2):
        fitting.run(drawn, outlined, loose, given.steps, 2e-3 if stage else 3e-3)
        halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in fitting.network.state_dict().items()}
        torch.save(halves, given.out)
        if stage == 0:
            outlined = fitting.outline(loose)
            print(f"{len(outlined.pictures)} films outlined, {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
