"""The configuration: the files that ship, and what each kind of mistake is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from dicom_node.config import Match, NodeSettings, Peer, Route, Settings, load
from dicom_node.errors import ConfigError
from dicom_node.node import find_bundles

GOOD = """
[node]
ae_title = "AINODE"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "192.0.2.20"
port = 104
destination = true
[[routes]]
name = "chest"
models = ["phantom_cxr"]
to = ["pacs"]
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["node.toml", "hospital.toml"])
def test_the_files_that_ship_are_good(name: str) -> None:
    settings = load(ROOT / "config" / name)
    assert settings.models() == ("phantom_cxr",)
    assert find_bundles(settings)


def test_every_key_stands_in_the_commented_example() -> None:
    text = (ROOT / "config" / "hospital.toml").read_text(encoding="utf-8")
    for section in (NodeSettings, Peer, Route, Match):
        for name, field in section.model_fields.items():
            key = field.alias or name
            if key != "match":
                assert re.search(rf"^{key} = ", text, re.MULTILINE), f"{key} of {section.__name__} is not explained"


def test_a_relative_data_dir_counts_from_the_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[node]\ndata_dir = "state"')).node.data_dir == tmp_path / "state"
    assert load(write(tmp_path, '[node]\ndata_dir = "/srv/x"')).node.data_dir == Path("/srv/x")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ('ae_title = "AINODE"', 'ae_title = "THIS_TITLE_IS_TOO_LONG"'),
            ["node.ae_title", "THIS_TITLE_IS_TOO", "1 to 16"],
        ),
        (('ae_title = "AINODE"', 'ae_title = "  "'), ["node.ae_title", "1 to 16"]),
        (('ae_title = "AINODE"', 'ae_title = "A\\\\B"'), ["node.ae_title", "backslash"]),
        (("port = 104", "port = 99999"), ["peers[0].port", "99999", "65535"]),
        (("port = 104", 'port = "abc"'), ["peers[0].port", "'abc'", "integer"]),
        (("port = 104", ""), ["peers[0]", "'pacs'", "host and port"]),
        (('host = "192.0.2.20"', 'host = "a b"'), ["peers[0].host", "'a b'", "host name"]),
        (("destination = true", ""), ["'chest'", "'pacs'", "destination = true"]),
        (('to = ["pacs"]', 'to = ["other"]'), ["'chest'", "'other'", "pacs"]),
        (('to = ["pacs"]', "to = []"), ["routes[0].to", "at least 1"]),
        (('to = ["pacs"]', ""), ["routes[0].to", "missing"]),
        (('models = ["phantom_cxr"]', 'models = ["phantom_cxr", "phantom_cxr"]'), ["'chest'", "models", "once"]),
        (('name = "chest"', 'name = "chest"\noutputs = ["gsps"]'), ["routes[0].outputs[0]", "'gsps'", "'sr' or 'sc'"]),
        (('name = "chest"', 'name = "chest"\nquiet = 2'), ["routes[0].quiet", "no such key"]),
        (('name = "chest"', 'name = "chest"\nquiet_seconds = -1'), ["routes[0].quiet_seconds", "-1"]),
        (("[node]", "[nodes]"), ["nodes", "no such key"]),
        (("[node]", "[node"), ["not valid TOML", "line 2"]),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], told: list[str]) -> None:
    assert change[0] in GOOD
    file = write(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        load(file)
    for text in [str(file), *told]:
        assert text in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("port = 104", "port = 0").replace('ae_title = "AINODE"', 'ae_title = ""'))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 2


def test_names_stand_once(tmp_path: Path) -> None:
    peer = GOOD[GOOD.index("[[peers]]") : GOOD.index("[[routes]]")]
    with pytest.raises(ConfigError, match="'pacs' stands more often"):
        load(write(tmp_path, GOOD + peer))


def test_a_missing_or_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")
    file = tmp_path / "latin.toml"
    file.write_bytes(b'[node]\nae_title = "\xe9"')
    with pytest.raises(ConfigError, match="UTF-8"):
        load(file)


def test_an_unknown_model_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD.replace('"phantom_cxr"', '"lung_cancer"')))
    with pytest.raises(ConfigError, match=r"'lung_cancer'.*phantom_cxr"):
        find_bundles(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().node.port = 1  # type: ignore[misc]
