"""Writes the bill of materials of the installed node: CycloneDX 1.6, JSON.

``./scripts/sbom FILE`` (or standard output). The same packages lead to the same bytes.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from scripts.supply.bundled import Bundled, bundled
from scripts.supply.installed import OURS, needed, requirements_of, version_of
from scripts.supply.licences import licence_of


def sbom() -> dict[str, Any]:
    """The document. A library that a package brings along is a component of that package."""
    node = distribution(OURS)
    packages = {name: each for name, each in needed().items() if name != "pip"}
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**_component(node), "type": "application"}},
        "components": [
            {**_component(each), **_inside([_library(name, one) for one in bundled(each)])}
            for name, each in packages.items()
        ],
        "dependencies": [
            {
                "ref": _ref(each),
                "dependsOn": [_ref(packages[name]) for name in requirements_of(each) if name in packages],
            }
            for each in (node, *packages.values())
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    return {"serialNumber": f"urn:uuid:{number}", **content}


def _ref(package: Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(package.name)}@{version_of(package)}"


def _component(package: Distribution) -> dict[str, Any]:
    licence = package.metadata["License-Expression"] if package.name == OURS else licence_of(package)
    return {
        "type": "library",
        "bom-ref": _ref(package),
        "name": package.name,
        "version": version_of(package),
        "purl": _ref(package),
        "licenses": [_licence(licence)],
    }


def _licence(text: str) -> dict[str, Any]:
    """A licence that is no SPDX expression is given by its name."""
    return {"license": {"name": text}} if text in ("BSD", "Public Domain") else {"expression": text}


def _inside(components: list[dict[str, Any]]) -> dict[str, Any]:
    return {"components": components} if components else {}


def _library(package: str, library: Bundled) -> dict[str, Any]:
    judged = library.judged
    digest = library.sha256()
    return {
        "type": "library",
        "bom-ref": f"{package}/{library.name}/{digest[:16]}",
        "name": judged.project if judged else library.name,
        "version": library.version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        **({"licenses": [_licence(judged.licence)]} if judged else {}),
        "properties": [{"name": "file", "value": library.path.name}],
    }


def main(arguments: list[str]) -> None:
    """Write it to a file, or to standard output."""
    text = json.dumps(sbom(), indent=2, ensure_ascii=False) + "\n"
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
