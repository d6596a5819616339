"""Settings of a node under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicom_node.config.settings import Settings


def settings_for(data_dir: Path, *, pacs_port: int | None = None, **changes: Any) -> Settings:
    """A node on a free port that TESTER and STORESCU may push to; with a PACS, a route that takes every study."""
    raw: dict[str, Any] = {
        "node": {"port": 0, "data_dir": data_dir, "quiet_seconds": 0.1, **changes.pop("node", {})},
        "peers": [
            {"name": "tester", "ae_title": "TESTER", "host": "127.0.0.1", "may_store": True},
            {"name": "storescu", "ae_title": "STORESCU", "host": "127.0.0.1", "may_store": True},
            *changes.pop("peers", []),
        ],
        "routes": changes.pop("routes", []),
    }
    if pacs_port is not None:
        raw["peers"].append(
            {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "destination": True}
        )
        raw["routes"] = raw["routes"] or [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"]}]
    assert not changes, f"unused: {changes}"
    return Settings.model_validate(raw)
