"""What the node is made of: hashes of every package, licences, a bill of materials, and a wheel that repeats."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import parse_tag

from scripts.supply import hashes, licences
from scripts.supply.bundled import bundled
from scripts.supply.installed import needed, version_of
from scripts.supply.sbom import sbom
from tests.support.programs import ROOT
from tests.support.waiting import scaled

LINE = re.compile(r"([a-z0-9-]+)==([^ ]+)((?: --hash=sha256:[0-9a-f]{64})+)")


def listed(*files: str) -> dict[str, tuple[str, list[str]]]:
    """The version and the hashes of each package in lists of config/hashes."""
    found = {}
    for file in files:
        text = (hashes.FOLDER / file).read_text(encoding="utf-8").replace(" \\\n   ", "")
        for line in text.splitlines()[1:]:
            match = LINE.fullmatch(line)
            assert match is not None, line
            assert match[1] not in found
            found[match[1]] = (match[2], match[3].split())
    return found


def test_every_package_that_is_installed_has_its_hashes() -> None:
    found = listed("torch.txt", "node.txt", "test.txt")
    wanted = {**needed("test")}
    wanted.pop("pip")  # that of the environment
    assert set(found) == {*wanted, *hashes.BUILD}
    pinned = hashes.pinned()
    for name, (version, _) in found.items():
        assert version == pinned[name]
        if name in wanted:
            assert version == version_of(wanted[name])
    assert list(listed("torch.txt")) == ["torch"]
    assert set(needed()) - {"pip", "torch"} <= set(listed("node.txt"))


@pytest.mark.parametrize(
    ("tag", "ours"),
    [
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_28_x86_64", True),
        ("cp313-cp313-manylinux_2_28_aarch64", True),
        ("cp39-abi3-manylinux_2_28_x86_64", True),
        ("cp313-cp313t-manylinux_2_28_x86_64", False),
        ("cp310-cp310-manylinux_2_28_x86_64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
    ],
)
def test_only_files_for_machines_of_the_node_are_listed(tag: str, ours: bool) -> None:
    (one,) = parse_tag(tag)
    assert hashes.is_for_us(one) is ours


def test_of_a_package_the_wheels_are_listed_and_the_source_where_there_is_none() -> None:
    files = [("a_b-1.0-py3-none-any.whl", "1"), ("a_b-1.0+cpu-py3-none-any.whl", "2"), ("a_b-1.0.tar.gz", "3")]
    others = [("a_b-1.1-py3-none-any.whl", "4"), ("a_b.whl", "5"), ("a_b-1.0.exe", "6")]
    assert {digest for _, digest in hashes.chosen("a-b", "1.0", files + others)} == {"1", "2"}
    assert hashes.chosen("a-b", "1.0", files[2:] + others) == files[2:]


def test_the_bill_names_each_package_and_each_library_that_it_brings_along() -> None:
    document = sbom()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components: list[dict[str, Any]] = document["components"]
    wanted = {name: version_of(each) for name, each in needed().items() if name != "pip"}
    assert {each["purl"] for each in components} == {f"pkg:pypi/{name}@{version}" for name, version in wanted.items()}
    refs = {each["bom-ref"] for each in (document["metadata"]["component"], *components)}
    for each in document["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= refs
    libraries = [one for each in components for one in each.get("components", ())]
    assert (
        len({one["bom-ref"] for one in libraries})
        == len(libraries)
        == sum(len(bundled(each)) for each in needed().values())
    )
    assert all(one["hashes"][0]["content"] and one["licenses"] for one in libraries)
    if "python-gdcm" in wanted:
        assert ("OpenSSL 1.1.1", "1.1.1k") in {(one["name"], one["version"]) for one in libraries}
    assert json.dumps(sbom()) == json.dumps(document), "and the same packages lead to the same bytes"


def test_what_nobody_has_judged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(licences.LICENCES, "MPL-2.0")
    with pytest.raises(licences.UnjudgedError, match=r"MPL-2\.0"):
        licences.page()


def test_the_page_of_licences_is_that_of_the_installed_packages() -> None:
    if sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64":
        pytest.skip("the page is made with Python 3.11 on x86_64; other wheels bring other libraries along")
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "run python -m scripts.supply.licences"


def test_pip_installs_nothing_without_its_hash() -> None:
    """But for torch where its build needs more packages than any list can know, which the script says."""
    text = (ROOT / "scripts" / "venv").read_text(encoding="utf-8")
    calls = [line.strip() for line in text.splitlines() if re.match(r'\s*"\$\{(pip|hashed)\[@\]\}"', line)]
    unchecked = [line for line in calls if line.startswith('"${pip')]
    assert unchecked == [
        '"${pip[@]}" --no-deps --no-build-isolation --editable .',
        '"${pip[@]}" --constraint config/constraints.txt torch==2.13.0',
    ]
    assert len(calls) == 4


@pytest.mark.programs
def test_the_wheel_of_a_commit_is_the_same_bytes_whoever_builds_it(tmp_path: Path) -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("this is no clone of the repository: there is no commit to build")
    built = []
    for name, umask, zone in (("one", 0o022, "UTC"), ("two", 0o077, "Asia/Seoul")):
        subprocess.run(
            [ROOT / "scripts" / "wheel", tmp_path / name],
            check=True,
            env={**os.environ, "TZ": zone},
            umask=umask,
            capture_output=True,
            timeout=scaled(170),
        )
        (wheel,) = (tmp_path / name).glob("*.whl")
        built.append(wheel)
    assert built[0].read_bytes() == built[1].read_bytes()
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
        assert "dicom_node/cli/main.py" in names
        assert not [each for each in names if each.endswith(".pyc")]
        assert {each.external_attr >> 16 & 0o777 for each in wheel.infolist()} <= {0o644, 0o755, 0o664}
