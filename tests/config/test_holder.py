"""The settings in force can be replaced while the node runs; which keys need a restart is said in one table."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel

from dicom_node.config.holder import NEEDS_RESTART, SettingsHolder, differences, needs_restart
from dicom_node.config.retention import Retention
from dicom_node.config.settings import NodeSettings, Peer, Route, Settings
from tests.support.nodes import settings_for


def changed(settings: Settings, **node: object) -> Settings:
    return settings.model_copy(update={"node": settings.node.model_copy(update=node)})


def test_a_replacement_is_seen_at_once(tmp_path: Path) -> None:
    first = settings_for(tmp_path)
    holder = SettingsHolder(first)
    later = changed(first, quiet_seconds=9.0)
    assert holder.current is first
    assert holder.replace(later) == ()
    assert holder.current == later


def test_what_takes_effect_at_the_next_start_is_named(tmp_path: Path) -> None:
    first = settings_for(tmp_path, pacs_port=104)
    moved = first.model_copy(
        update={"peers": tuple(p.model_copy(update={"port": 105}) if p.name == "pacs" else p for p in first.peers)}
    )
    assert differences(first, moved) == ("peers.pacs.port",)
    assert SettingsHolder(first).replace(moved) == ("peers.pacs.port",)
    holder = SettingsHolder(first)
    assert holder.replace(changed(first, ae_title="OTHER", quiet_seconds=9.0)) == ("node.ae_title",)
    assert holder.current == changed(first, quiet_seconds=9.0), "until the restart it is called as it calls"
    both = changed(moved, port=1, quiet_seconds=9.0)
    assert differences(first, both) == ("node.port", "node.quiet_seconds", "peers.pacs.port")
    assert needs_restart(differences(first, both)) == ("node.port", "peers.pacs.port")


def test_a_peer_that_came_or_went_differs_in_all_that_it_says(tmp_path: Path) -> None:
    with_pacs, without = settings_for(tmp_path, pacs_port=104), settings_for(tmp_path)
    found = set(differences(without, with_pacs))
    assert {"peers.pacs", "peers.pacs.host", "peers.pacs.destination", "routes.all", "routes.all.models"} <= found
    assert found == set(differences(with_pacs, without))
    assert differences(with_pacs, with_pacs) == ()


def test_the_table_names_keys_that_exist() -> None:
    tables: dict[str, type[BaseModel]] = {
        "node": NodeSettings, "retention": Retention, "peers.x": Peer, "routes.x": Route,
    }  # fmt: skip
    keys = [f"{table}.{key}" for table, model in tables.items() for key in model.model_fields]
    for pattern in NEEDS_RESTART:
        assert any(fnmatchcase(key, pattern) for key in keys), pattern
