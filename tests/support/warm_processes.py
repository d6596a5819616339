"""Warm processes of the tests: forked from one process that has imported what they need.

Importing torch, MONAI and highdicom takes five seconds of a processor, and some hundred tests start a reading process.
What they look at begins behind the imports. A node that a test starts as a program starts its own as every node does.
"""

from __future__ import annotations

import multiprocessing

from ai.engine import process

_IMPORTED = [
    "ai.bundle.build",
    "ai.inference.bundle_model",
    "ai.inference.probe",
    "dicom_node.reading.loading",
    "dicom_node.results",
]


def prepare() -> None:
    """Let this process start its warm processes so; the process that they are forked from starts with the first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process.CONTEXT = context
