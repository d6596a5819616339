"""The configuration: the files that ship, and what each kind of mistake is told."""

from __future__ import annotations

import dataclasses
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.load import load
from dicom_node.config.retention import Retention
from dicom_node.config.settings import Match, NodeSettings, Peer, Profile, Route, Settings
from dicom_node.errors import ConfigError
from dicom_node.models.registry import find
from tests.support.examples import HOSPITAL, hospital_with_everything
from tests.support.programs import ROOT

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
    assert find(settings)


def test_every_key_stands_in_the_commented_example() -> None:
    text = hospital_with_everything()
    for section in (NodeSettings, Retention, Peer, Route, Match):
        for name, field in section.model_fields.items():
            key = field.alias or name
            if key != "match":
                assert re.search(rf"^{key} = ", text, re.MULTILINE), f"{key} of {section.__name__} is not explained"


def test_the_commented_example_removes_nothing_and_what_it_switches_off_is_good(tmp_path: Path) -> None:
    assert load(HOSPITAL).retention == Retention()
    everything = load(write(tmp_path, hospital_with_everything()))
    assert everything.retention == Retention(days=90.0, free_gb=200.0, committed_days=365.0)
    route, screening = everything.routes
    assert (route.operating_point, route.prevalence) == ("balanced", {"nodule": 0.02})
    routes = (route.model_copy(update={"operating_point": None, "prevalence": {}}),)
    peers = tuple(peer.model_copy(update={"pictures": None}) for peer in everything.peers)
    switched_off = {"retention": Retention(), "routes": routes, "peers": peers}
    assert everything.model_copy(update=switched_off) == load(HOSPITAL)
    assert (screening.findings, screening.prevalence) == (("tuberculosis",), {"tuberculosis": 0.005})
    assert everything.profile(screening, "pacs").prevalence == (("tuberculosis", 0.005),)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("days = 0.01", "retention.days: found 0.01"),
        ("days = true", "retention.days: found True"),
        ("free_gb = 50.0", "retention.free_gb alone removes nothing"),
        ("committed_days = 50.0", "retention.committed_days alone removes nothing"),
        ("days = 30\ncommitted_days = 0", "retention.committed_days: found 0"),
        ("days = 30\nfree_gb = 1.0", "expected more than node.keep_free_gb (1)"),
        ("months = 1", "retention.months: there is no such key"),
    ],
)
def test_a_retention_that_cannot_be_meant_is_told(tmp_path: Path, table: str, fault: str) -> None:
    with pytest.raises(ConfigError) as told:
        load(write(tmp_path, f"{GOOD}[retention]\n{table}\n"))
    assert fault in str(told.value)


def test_without_retention_nothing_is_ever_removed(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).retention.days is None
    settings = load(write(tmp_path, f"{GOOD}[retention]\ndays = 30\nfree_gb = 1.5\n"))
    assert (settings.retention.days, settings.retention.free_gb) == (30.0, 1.5)


def test_what_a_destination_says_of_results_counts_before_what_the_route_says(tmp_path: Path) -> None:
    text = GOOD.replace("port = 104", 'port = 104\nlanguage = "ko"\nsr_class = "comprehensive3d"', 1)
    text = text.replace('name = "chest"', 'name = "chest"\nlanguage = "ja"\noutputs = ["sr", "pdf"]', 1)
    settings = load(write(tmp_path, text))
    profile = settings.profile(settings.routes[0], "pacs")
    assert profile == Profile(outputs=("sr", "pdf"), language="ko", sr_class="comprehensive3d")


def test_every_setting_of_a_profile_changes_its_digest_and_the_order_of_outputs_does_not() -> None:
    others: dict[str, Any] = {
        "outputs": ("sr",),
        "language": "ko",
        "content_qualification": "PRODUCT",
        "series_number_base": 9002,
        "character_set": "utf-8",
        "sr_class": "comprehensive3d",
        "viewer": "ohif",
        "prevalence": (("nodule", 0.02),),
        "pictures": "jpeg-ls",
        "sc_rows": 4096,
        "seg": "labelmap",
    }
    assert others.keys() == {field.name for field in dataclasses.fields(Profile)}
    digests = {Profile().digest, *(Profile(**{key: value}).digest for key, value in others.items())}
    assert len(digests) == 1 + len(others)
    assert Profile(outputs=("sr", "sc")) == Profile(outputs=("sc", "sr"))
    assert Profile(outputs=("sr", "sc")).digest == Profile(outputs=("sc", "sr")).digest


def test_a_relative_data_dir_counts_from_the_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[node]\ndata_dir = "state"')).node.data_dir == tmp_path / "state"
    assert load(write(tmp_path, '[node]\ndata_dir = "../state"')).node.data_dir == tmp_path.parent / "state"
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
        (('name = "chest"', 'name = "chest"\noutputs = ["x"]'), ["routes[0].outputs[0]", "'x'", "'sr', 'sc', 'gsps'"]),
        (
            ('name = "chest"', 'name = "chest"\noutputs = ["gsps", "kos"]'),
            ["routes[0].outputs", "expected sr, sc or pdf"],
        ),
        (('name = "chest"', 'name = "chest"\noutputs = ["sr", "sr"]'), ["'chest'", "outputs", "'sr'", "once"]),
        (("port = 104", 'port = 104\noutputs = ["sr", "sr"]'), ["'pacs'", "outputs", "'sr'", "once"]),
        (("port = 104", 'port = 104\nlanguage = "de"'), ["peers[0].language", "'de'", "'en', 'ko' or 'ja'"]),
        (("port = 104", 'port = 104\nsr_class = "basic"'), ["peers[0].sr_class", "'basic'", "'comprehensive3d'"]),
        (("port = 104", "port = 104\nsr_class = 3"), ["peers[0].sr_class", "found 3", "'comprehensive3d'"]),
        (("port = 104", 'port = 104\ncharacter_set = "latin1"'), ["peers[0].character_set", "'source' or 'utf-8'"]),
        (
            ("port = 104", "port = 104\nseries_number_base = 0"),
            ["peers[0].series_number_base", "found 0", "equal to 1"],
        ),
        (("port = 104", 'port = 104\ncontent_qualification = "research"'), ["'RESEARCH', 'PRODUCT' or 'SERVICE'"]),
        (
            ("destination = true", 'any_host = true\nlanguage = "ko"'),
            ["'pacs'", "no destination", "language", "destination = true"],
        ),
        (('name = "chest"', 'name = "chest"\nquiet = 2'), ["routes[0].quiet", "no such key"]),
        (('name = "chest"', 'name = "chest"\nquiet_seconds = -1'), ["routes[0].quiet_seconds", "-1"]),
        (("port = 104", "port = true"), ["peers[0].port", "True", "integer"]),
        (("port = 104", "port = 104.0"), ["peers[0].port", "104.0", "integer"]),
        (("[node]", "[node]\nport = true"), ["node.port", "True", "integer"]),
        (("destination = true", "destination = 1"), ["peers[0].destination", "found 1", "boolean"]),
        (("destination = true", 'destination = "yes"'), ["peers[0].destination", "'yes'", "boolean"]),
        (("[node]", '[node]\nquiet_seconds = "2"'), ["node.quiet_seconds", "'2'", "number"]),
        (("[node]", "[node]\nquiet_seconds = true"), ["node.quiet_seconds", "True", "number"]),
        (("[node]", "[node]\ndeliver_for_hours = true"), ["node.deliver_for_hours", "True", "number"]),
        (("[node]", "[node]\ndeliver_for_hours = nan"), ["node.deliver_for_hours", "nan", "number"]),
        (("[node]", "[node]\nread_timeout_seconds = 0.001"), ["node.read_timeout_seconds", "0.001", "equal to 1"]),
        (("[node]", "[node]\nread_timeout_seconds = nan"), ["node.read_timeout_seconds", "nan", "number"]),
        (("[node]", '[node]\ndata_dir = ""'), ["node.data_dir", "found ''", "path of a folder"]),
        (("[node]", '[node]\ndata_dir = "a\\u0000b"'), ["node.data_dir", "path of a folder"]),
        (
            ("[node]", '[node]\ndata_dir = "~nosuchuser/x"'),
            ["node.data_dir", "'~nosuchuser/x'", "is not the home folder of a user"],
        ),
        (("[node]", '[node]\nhost = "1.2.3.999"'), ["node.host", "'1.2.3.999'", "four numbers from 0 to 255"]),
        (("[[routes]]", '[[routes]]\nmatch.from = "CT1"'), ["'chest'", "match.from", "'CT1'", "no peer", "are: PACS)"]),
        (("[[routes]]", '[[routes]]\nmatch.from = ["pacs", ""]'), ["'chest'", "match.from", "''", "no peer"]),
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


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("1.2.3.999", "looks like an IPv4 address and is not one"),
        ("1.2.3", "looks like an IPv4 address and is not one"),
        ("10", "looks like an IPv4 address and is not one"),
        ("1.2.3.04", "looks like an IPv4 address and is not one"),
        ("0x7f.1", "looks like an IPv4 address and is not one"),
        ("pacs.0", "looks like an IPv4 address and is not one"),
        ("1.2.3.4:104", "without a port; the port has its own key"),
        ("pacs.example:104", "without a port; the port has its own key"),
        ("[2001:db8::1]:104", "without a port; the port has its own key"),
        ("[2001:db8::1]", "expected an IP address or a host name"),
        ("", "expected an IP address or a host name"),
        (".", "expected an IP address or a host name"),
        ("a..b", "expected an IP address or a host name"),
        ("-a.b", "expected an IP address or a host name"),
        ("a.b-", "expected an IP address or a host name"),
        ("a" * 64, "expected an IP address or a host name"),
        (".".join(["a" * 63] * 4), "expected an IP address or a host name"),
        ("pacs,example", "expected an IP address or a host name"),
        ("p\u00e4cs", "expected an IP address or a host name"),
        ("fe80::1%a b", "expected an IP address or a host name"),
        ("user@pacs", "expected an IP address or a host name"),
    ],
)
def test_what_is_no_host_is_refused(tmp_path: Path, host: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, GOOD.replace("192.0.2.20", host)))
    assert "peers[0].host: " in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "2001:db8::1",
        "fe80::1%eth0",
        "localhost",
        "PACS",
        "pacs.example.org",
        "pacs.example.org.",
        "pacs_1",
        "3d-lab.example",
        "a" * 63,
        "1pacs",
    ],
)
def test_what_is_a_host_is_taken(tmp_path: Path, host: str) -> None:
    assert load(write(tmp_path, GOOD.replace("192.0.2.20", f" {host} "))).peers[0].host == host


def test_a_whole_number_does_where_a_fraction_may_stand(tmp_path: Path) -> None:
    node = load(write(tmp_path, "[node]\nquiet_seconds = 0\nread_timeout_seconds = 1\ndeliver_for_hours = 24")).node
    assert (node.quiet_seconds, node.read_timeout_seconds, node.deliver_for_hours) == (0, 1, 24)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "notepad.toml"
    file.write_bytes(GOOD.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load(file) == load(write(tmp_path, GOOD))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(write(tmp_path, '[node]\ndata_dir = "~/x"')).node.data_dir == tmp_path / "x"
    assert NodeSettings(data_dir=Path("~/x")).data_dir == tmp_path / "x"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "192.0.2.7", "0.0.0.0", "ai-box"],
)
def test_a_node_never_sends_results_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "AI-Box.example")
    own = GOOD.replace("[node]", '[node]\nhost = "192.0.2.7"').replace("192.0.2.20", host)
    own = own.replace('"PACS"', '"AINODE"').replace("port = 104", "port = 11112")
    with pytest.raises(ConfigError, match=r"peer 'pacs' is a destination, but AINODE at .*:11112 is this node itself"):
        load(write(tmp_path, own))
    for change in (
        ('[node]\nhost = "192.0.2.7"', '[node]\nhost = "192.0.2.7"\nport = 104'),
        ('name = "pacs"\nae_title = "AINODE"', 'name = "pacs"\nae_title = "OTHER"'),
        (f'host = "{host}"', 'host = "192.0.2.20"'),
    ):
        assert change[0] in own
        load(write(tmp_path, own.replace(*change, 1)))


@pytest.mark.parametrize(
    ("one", "other", "ambiguous"),
    [
        ({"host": "192.0.2.1"}, {"host": "192.0.2.1"}, True),
        ({"host": "ct.example"}, {"host": "CT.example."}, True),
        ({"host": "2001:db8::1"}, {"host": "2001:0db8:0::1"}, True),
        ({"any_host": True}, {"any_host": True}, True),
        ({"any_host": True, "host": "192.0.2.1"}, {"any_host": True, "host": "192.0.2.2"}, True),
        ({"host": "192.0.2.1"}, {"host": "192.0.2.2"}, False),
        ({"host": "192.0.2.1"}, {"host": "192.0.2.1", "ae_title": "CT2"}, False),
    ],
)
def test_two_peers_that_cannot_be_told_apart_may_the_same(
    one: dict[str, object], other: dict[str, object], ambiguous: bool
) -> None:
    first = {"name": "a", "ae_title": "CT1", "may_store": True, **one}
    second = {"name": "b", "ae_title": "CT1", "may_store": False, **other}
    if ambiguous:
        with pytest.raises(ValueError, match=r"peers 'a' and 'b' both call as CT1 from .*expected the same may_store"):
            Settings.model_validate({"peers": [first, second]})
    else:
        Settings.model_validate({"peers": [first, second]})
    Settings.model_validate({"peers": [first, {**second, "may_store": True}]})


@pytest.mark.parametrize("pattern", ["pacs", "PACS", "CT*", "C?1", "[CD]T1"])
def test_a_route_may_name_known_callers_and_patterns(tmp_path: Path, pattern: str) -> None:
    load(write(tmp_path, GOOD.replace("[[routes]]", f'[[routes]]\nmatch.from = "{pattern}"')))


def test_any_caller_may_be_named_where_unknown_ones_are_accepted(tmp_path: Path) -> None:
    text = GOOD.replace("[node]", "[node]\naccept_unknown_callers = true")
    load(write(tmp_path, text.replace("[[routes]]", '[[routes]]\nmatch.from = "CT1"')))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("port = 104", "port = 0").replace('ae_title = "AINODE"', 'ae_title = ""'))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 2


def test_no_two_models_share_series_numbers_at_a_destination(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "{}"\nmodels = ["{}"]\nto = ["pacs"]\nseries_number_base = {}\n'
    good = route.format("one", "a", 9001) + route.format("two", "b", 9001) + route.format("three", "a", 9000)
    peers = GOOD.partition("[[routes]]")[0]
    assert load(write(tmp_path, peers + good)).reading_models() == ("a", "b")
    with pytest.raises(ConfigError) as told:
        load(write(tmp_path, peers + route.format("one", "a", 9013) + route.format("two", "b", 9001)))
    assert "'a' and 'b' would both have series number 9013" in str(told.value)


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
        find(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().node.port = 1  # type: ignore[misc]
