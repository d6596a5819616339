"""Programs that the tests talk to; a test whose program is missing is skipped and says so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def tool(name: str) -> str:
    """The path of a program that scripts/test installs; a test that needs it is skipped where it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/test installs it by apt-get)")
    return found


def run_tool(name: str, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(name), *map(str, args)], check=check, capture_output=True, text=True, timeout=120, errors="replace"
    )


def sr_validator_errors(path: Path) -> list[str]:
    """What DicomSRValidator calls an error in a report or a key object selection."""
    # JDK 17 caps XPath operators below what the validator needs.
    java = "-Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    done = subprocess.run(
        [tool("DicomSRValidator"), path],
        env={"PATH": "/usr/bin:/bin", "JAVA_TOOL_OPTIONS": java},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
