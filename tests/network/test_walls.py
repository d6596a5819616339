"""Who may touch pynetdicom's AE and associations: network/ calls, scp/ is called, and nothing else does either.

import-linter sees only that a module imports pynetdicom, not which name of it; this looks at the names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dicom_node

PACKAGE = Path(dicom_node.__file__).parent
#: What every room may use: events, role selection, UIDs of SOP classes, and the place of a data set in a file.
FREE = {"pynetdicom": {"evt", "build_role"}, "pynetdicom.dsutils": {"split_dataset"}, "pynetdicom.sop_class": None}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the node by its path within the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module imports: (module, name), with an empty name for ``import module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((one.name, "") for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", one.name) for one in node.names)


def calls(tree: ast.Module, name: str) -> bool:
    """Whether a module calls a function or method of this name."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(name in (getattr(one, "attr", None), getattr(one, "id", None)) for one in functions)


def test_only_network_and_scp_use_more_of_pynetdicom_than_events_and_uids() -> None:
    for path, tree in modules():
        if path.split("/")[0] in ("network", "scp"):
            continue
        for module, name in imports(tree):
            if module.split(".")[0] == "pynetdicom":
                allowed = FREE.get(module, set())
                assert name and (allowed is None or name in allowed), f"{path} imports {name or module} of {module}"


@pytest.mark.slow
def test_only_the_requestor_requests_associations() -> None:
    assert [path for path, tree in modules() if calls(tree, "associate")] == ["network/requestor.py"]


@pytest.mark.slow
def test_only_the_requestor_and_the_acceptor_make_an_application_entity() -> None:
    makers = [path for path, tree in modules() if calls(tree, "AE") or calls(tree, "application_entity")]
    assert [path for path in makers if not path.startswith("scp/")] == ["network/requestor.py"]


@pytest.mark.slow
def test_only_the_storage_and_the_verification_scu_send_c_store_and_c_echo() -> None:
    assert [path for path, tree in modules() if calls(tree, "send_c_store")] == ["network/storage_scu.py"]
    assert [path for path, tree in modules() if calls(tree, "send_c_echo")] == ["network/verification_scu.py"]


def test_the_walls_are_seen() -> None:
    """The same look at a module that breaks them."""
    tree = ast.parse("from pynetdicom import AE, evt\nimport pynetdicom.ae\nAE('A').associate('127.0.0.1', 104)\n")
    assert list(imports(tree)) == [("pynetdicom", "AE"), ("pynetdicom", "evt"), ("pynetdicom.ae", "")]
    assert calls(tree, "associate")
    assert calls(tree, "AE")
    assert not calls(tree, "send_c_store")
