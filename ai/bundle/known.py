"""The allow-list: which parts of MONAI and of torch.nn a configuration may name without being shown for it.

A part is known by the class that a file of an allowed folder defines, never by what a module merely imports. Classes
that take a name and look it up, load programs or write files are left out. Nothing is imported here.
"""

from __future__ import annotations

import builtins
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Final

_RUNS: Final = ("transforms", "networks.nets", "networks.blocks", "networks.layers", "networks.schedulers", "inferers",
                "apps.detection")  # fmt: skip
# What a bundle describes for training and evaluation, and a node does not build.
_BESIDE: Final = ("data", "engines", "handlers", "metrics", "losses", "optimizers", "visualize")
_CLASS: Final = re.compile(r"^class ([A-Z]\w*)", re.MULTILINE)
_ALIASES: Final = re.compile(r"^([A-Z]\w*(?: = [A-Z]\w*)+)$", re.MULTILINE)
# They look up a name, read or write files by a name, or build what another library describes.
_LEFT_OUT: Final = re.compile(
    r"LoadImage|SaveImage|WriteFileMapping\w*|\w*TorchVision\w*|\w*TorchIO\w*|\w*CuCIM\w*|Transchex|\w*Hyena\w*"
    r"|CellSamWrapper|NetAdapter|FlexUNetEncoderRegister|\w*Trt\w*"
)
_TORCH: Final = ("torch.device", "torch.tensor")
_IMPORT: Final = re.compile(r"\$\s*import (torch|monai|math|numpy( as np)?)")
_MODES: Final = ("default", "callable", "partial")

_READERS: Final = re.compile(r"(pydicom|nvimgcodecpydicom|itk|nrrd|numpy|pil|nibabel)reader", re.IGNORECASE)
# Arguments whose text MONAI looks up as a module or a builtin -> the texts that name parts of MONAI.
LOOKED_UP: Final = {
    "reader": _READERS,
    "writer": re.compile(r"(ITK|Nibabel|PIL)Writer"),
    "merger_cls": re.compile(r"(Avg|ZarrAvg)Merger"),
    "backbone": re.compile(r"efficientnet-(b[0-8]|l2)|resnet(10|18|34|50|101|152|200)"),
    "_mode_": re.compile("|".join(_MODES)),
}
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def is_known(target: str, *, runs: bool = True) -> bool:
    """Whether a target is an allowed class, by its bare name or by the name of its module.

    Args:
        target: a value of ``_target_``.
        runs: whether a node builds it. What it does not build may be a part for training and evaluation, too.
    """
    if target in _TORCH:
        return True
    module, _, name = target.rpartition(".")
    if _LEFT_OUT.fullmatch(name) and runs:
        return False
    if not module:
        return any(name in _names("monai", part) for part in (_RUNS if runs else (*_RUNS, *_BESIDE)))
    package, _, inside = module.partition(".")
    if package == "torch":
        folder = _folder("torch")
        return (inside + ".").startswith("nn.") and _is_module(folder, inside) and name in _names("torch", "nn")
    if package != "monai" or not _is_module(_folder("monai"), inside):
        return False
    parts = [part for part in (_RUNS if runs else (*_RUNS, *_BESIDE)) if (inside + ".").startswith(part + ".")]
    return any(name in _names("monai", part) for part in parts)


def is_plain_import(text: str) -> bool:
    """Whether an expression only imports a library that every bundle may use."""
    return _IMPORT.fullmatch(text.strip()) is not None


def names_a_program(text: str, bundle: Path) -> bool:
    """Whether a text is the dotted name of something in an installed module, or in one of the bundle's own."""
    if not _DOTTED.fullmatch(text) or is_known(text, runs=False):
        return False
    root = text.split(".", maxsplit=1)[0]
    if (bundle / root).is_dir() or (bundle / f"{root}.py").is_file() or hasattr(builtins, root):
        return True
    try:
        return importlib.util.find_spec(root) is not None
    except (ImportError, ValueError):
        return True


def _is_module(folder: Path | None, inside: str) -> bool:
    if folder is None or not inside:
        return False
    path = folder.joinpath(*inside.split("."))
    return (path / "__init__.py").is_file() or path.with_suffix(".py").is_file()


@cache
def _names(package: str, part: str) -> frozenset[str]:
    """The classes that the files of a folder define, with the other names that they give them."""
    folder = _folder(package)
    if folder is None:
        return frozenset()
    found: set[str] = set()
    for file in folder.joinpath(*part.split(".")).rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="replace")
        own = set(_CLASS.findall(text))
        for chain in _ALIASES.findall(text):
            names = chain.split(" = ")
            if names[-1] in own:
                own |= set(names)
        found |= own
    return frozenset(found)


@cache
def _folder(package: str) -> Path | None:
    """The folder of a package, found without importing it. None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
