"""The command line; see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.utils import set_determinism

from ai.training.chest import __doc__ as about
from ai.training.chest.cards.card import summary
from ai.training.chest.data import FOLDS
from ai.training.chest.fit import Recipe, Say
from ai.training.chest.hold_out import hold_out
from ai.training.chest.recover import remeasure
from ai.training.chest.run import Place, crossvalidate, figures, load_cases, train

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "chest_xray"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ai.training.chest", description=(about or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_ in (
        ("train", "train a network for each fold, measure them on it, and write the bundle"),
        ("crossvalidate", "train and measure without writing a bundle; prints the figures as JSON"),
        ("hold-out", "write a fold's labels, and the models that have not seen it: for `dicom-node models evaluate`"),
    ):
        command = commands.add_parser(name, help=help_)
        command.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the images")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one core each")
        command.add_argument("--work", type=Path, default=Path("chest-training"), help="keeps each fold's network")
        command.add_argument("--side", type=int, help="pixels of the last stage, instead of the recipe's")
        command.add_argument("--epochs", type=int, help="epochs of each stage, instead of the recipe's: for a trial")
    commands.choices["train"].add_argument("--out", type=Path, default=BUNDLE, help="the bundle that is written")
    commands.choices["hold-out"].add_argument("--out", type=Path, required=True, help="the folder that is written")
    commands.choices["hold-out"].add_argument("--fold", type=int, choices=range(FOLDS), default=0)
    commands.choices["crossvalidate"].add_argument("--folds", default=",".join(map(str, range(FOLDS))))
    again = commands.add_parser("measure", help="measure a bundle again, and write its files anew but for the weights")
    again.add_argument("--data", type=Path, required=True, help="the folder that the bundle was trained on")
    again.add_argument("--bundle", type=Path, default=BUNDLE)
    commands.add_parser(
        "figures", help="print the shipped bundle's figures as the tables of docs/reference/chest-xray.md"
    )
    given = parser.parse_args(arguments)
    if given.command == "figures":
        reading, metadata = (
            json.loads((BUNDLE / "configs" / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("reading", "metadata")
        )
        print(summary(reading, metadata["eval_metrics"]), end="")
        return 0
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        if given.command == "measure":
            remeasure(given.data, given.bundle, say)
            return 0
        return _train(given, say)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _train(given: argparse.Namespace, say: Say) -> int:
    recipe = Recipe()
    if given.side:
        ratio = given.side / recipe.stages[-1].side
        recipe = replace(recipe, stages=tuple(replace(s, side=max(32, round(s.side * ratio))) for s in recipe.stages))
    if given.epochs:
        recipe = replace(recipe, stages=tuple(replace(stage, epochs=given.epochs) for stage in recipe.stages))
    set_determinism(given.seed)
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.jobs} CPU cores"
    place = Place(given.seed, given.device, 1 if given.device == "cuda" else given.jobs, given.work, where)
    if given.command == "train":
        train(given.data, given.out, recipe, place=place, say=say)
        return 0
    if given.command == "hold-out":
        hold_out(given.data, given.out, recipe, given.fold, place=place, say=say)
        return 0
    cases = load_cases(given.data, recipe)
    folds = [int(number) for number in given.folds.split(",")]
    trained = crossvalidate(given.data, cases, recipe, folds, place=place, say=say)
    print(json.dumps(figures(cases, trained, recipe, say)[1], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
