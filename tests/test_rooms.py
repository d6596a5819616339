"""Every module can be imported alone; the receiver's process does without torch, and is there within a second."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.programs import ROOT
from tests.support.waiting import scaled

# One process imports the libraries, which takes seconds; then each module is imported in a copy of it (fork) that has
# none of the project's modules yet.
EACH_ALONE = """
import importlib, json, os, sys, traceback
libraries, modules = json.load(sys.stdin)
for name in libraries:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] in ("ai", "dicom_node")]
for name in modules:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException:
            print(f"{name} cannot be imported alone:\\n{traceback.format_exc()}", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(f"{name} ends its process: {status}", flush=True)
print("all", flush=True)
"""


def modules() -> dict[str, str]:
    """The source of every module by its name, but for those that run as programs."""
    files = sorted(file for root in ("ai", "dicom_node") for file in (ROOT / root).rglob("*.py"))
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files if "-" not in str(file)}
    return {
        name.removesuffix(".__init__"): file.read_text(encoding="utf-8")
        for name, file in named.items()
        if not name.endswith("__main__") and not name.startswith("ai.bundles.")
    }


def libraries(sources: dict[str, str]) -> set[str]:
    """The modules of others that these sources import when they are imported themselves."""
    found = set()
    for source in sources.values():
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Import):
                found |= {alias.name for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                found.add(statement.module)
    return {name for name in found if name.split(".")[0] not in ("ai", "dicom_node")}


@pytest.mark.slow
def test_every_module_is_imported_alone() -> None:
    sources = modules()
    assert len(sources) > 100
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EACH_ALONE],
        input=json.dumps([sorted(libraries(sources)), sorted(sources)]),
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


@pytest.mark.slow
def test_the_receiver_runs_without_torch_monai_and_highdicom() -> None:
    code = (
        "import sys, dicom_node.cli.main, dicom_node.node, dicom_node.operations.check; "
        "print(sorted({'torch', 'monai', 'highdicom', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=scaled(60))
    assert done.stdout.strip() == "[]"


def test_no_package_imports_a_private_name_of_another() -> None:
    found = []
    for name, source in modules().items():
        package = name.rpartition(".")[0]
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in ("ai", "dicom_node"):
                continue
            other = (node.module or "").rpartition(".")[0]
            private = [each.name for each in node.names if each.name.startswith("_") and not each.name.startswith("__")]
            if private and other != package:
                found.append(f"{name} imports {', '.join(private)} from {node.module}")
    assert not found


def test_no_module_and_no_folder_outgrows_what_a_reader_holds() -> None:
    files = [file for root in ("ai", "dicom_node", "scripts") for file in (ROOT / root).rglob("*.py")]
    long = {str(file.relative_to(ROOT)): count for file in files if (count := len(file.read_text().splitlines())) > 410}
    assert not long, "about 400 lines; split it by what it is about"
    folders = Counter(file.parent for file in files)
    full = {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > 14}
    assert not full, "about a dozen modules"
