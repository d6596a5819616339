"""The receiver's process does without torch, and is there within a second."""

from __future__ import annotations

import subprocess
import sys


def test_the_receiver_runs_without_torch_monai_and_highdicom() -> None:
    code = (
        "import sys, dicom_node.cli.main, dicom_node.node, dicom_node.operations.check; "
        "print(sorted({'torch', 'monai', 'highdicom', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
