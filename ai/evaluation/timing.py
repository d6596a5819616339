"""Measures how long a warm model takes for an image, and how long its network alone takes, alternately in one run.

    python -m ai.evaluation.timing FILE.dcm [--bundle DIR] [--rounds 20] [--threads 2]

The network alone is one forward pass of the tensor that the reading gives it. The rest of a reading is opening and
decoding the file, preprocessing, activation maps and boxes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ai.bundle.files import shipped
from ai.contract import InstanceRef, Reading, SeriesRef
from ai.images.radiograph import read_header
from ai.inference.bundle_model import BundleModel, load


def measure(model: BundleModel, file: Path, rounds: int) -> dict[str, Any]:
    """Medians and quartiles in seconds, and the ratio of the two medians.

    Raises:
        ValueError: the model does not take the image.
        ReadingError: the image cannot be read.
    """
    header = read_header(file)
    ref = InstanceRef(header.sop_instance_uid, header.sop_class_uid, str(file))
    selection = model.select([SeriesRef("", "", header.modality, header.body_part, header.description, (ref,))])
    if not selection.chosen:
        raise ValueError(f"{file}: is not read: {selection.passed_over[0].reason}")
    given: list[Any] = []
    hook = model.network.register_forward_pre_hook(lambda _network, inputs: given.append(inputs))
    model.read(selection)
    hook.remove()
    inputs = given[0]

    def bare() -> None:
        with torch.inference_mode():
            model.network(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()

    readings: list[Reading] = []
    seconds: dict[str, list[float]] = {"reading": [], "network alone": []}
    for _ in range(rounds):
        seconds["reading"].append(_timed(lambda: readings.append(model.read(selection))))
        seconds["network alone"].append(_timed(bare))
    for step in dict(readings[0].seconds):
        seconds[f"of the reading: {step}"] = [dict(reading.seconds)[step] for reading in readings]
    tables = {
        name: dict(zip(("low", "median", "high"), _quartiles(values), strict=True)) for name, values in seconds.items()
    }
    ratio = tables["reading"]["median"] / tables["network alone"]["median"]
    return {
        "model": f"{model.identity.name} {model.identity.version}",
        "rows": header.rows,
        "columns": header.columns,
        "input": list(inputs[0].shape),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "seconds": tables,
        "ratio": ratio,
    }


def _timed(what: Callable[[], None]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m ai.evaluation.timing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="a DICOM image that the model takes")
    parser.add_argument("--bundle", type=Path, default=shipped()["chest_xray"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(arguments)
    found = measure(load(given.bundle, device=given.device, threads=given.threads), given.file, given.rounds)
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    print(
        f"{found['model']}, {found['columns']} x {found['rows']} pixels, network's input {found['input']}, "
        f"{found['threads']} threads, {found['rounds']} rounds in turns"
    )
    for name, values in found["seconds"].items():
        low, median, high = (1000.0 * values[key] for key in ("low", "median", "high"))
        print(f"{name:30} median {median:8.1f} ms   quartiles {low:8.1f} to {high:8.1f} ms")
    print(f"{'reading / network alone':30} {found['ratio']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
