"""The configuration that ships as an example, `config/hospital.toml`."""

from __future__ import annotations

import re

from tests.support.programs import ROOT

HOSPITAL = ROOT / "config" / "hospital.toml"


def hospital_with_everything() -> str:
    """The text of the example with each setting switched on that is switched off there: ``#`` and no space."""
    return re.sub(r"^#(?=\[|[a-z_]+ = )", "", HOSPITAL.read_text(encoding="utf-8"), flags=re.MULTILINE)
