"""What a route asks for and a model does not have is told before the node starts: route, key, what the model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ai.bundle.files import describe, shipped
from ai.bundle.manifest import ReadingSpec
from dicom_node.config.load import load
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigError
from dicom_node.models.asked import faults
from dicom_node.node import Node
from dicom_node.operations.check import points
from tests.support import bundles
from tests.support.nodes import settings_for

POINT = {"thresholds": {"nodule": 0.5, "tuberculosis": 0.5}}


def spec(name: str, **more: Any) -> ReadingSpec:
    outputs = (bundles.output("nodule", 0), bundles.output("tuberculosis", 1, default=False))
    return ReadingSpec.model_validate(bundles.reading("classification", *outputs, **more) | {"name": name})


OFFERS = spec("offers", operating_points={"balanced": POINT, "screening": POINT}, operating_point="balanced")
PLAIN = spec("plain")


def settings(**route: Any) -> Settings:
    said = {"name": "chest", "models": ["offers"], "to": ["pacs"]} | route
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "192.0.2.20", "port": 104, "destination": True}
    return Settings.model_validate({"peers": [pacs], "routes": [said]})


@pytest.mark.parametrize(
    "route",
    [
        {},
        {"findings": ["tuberculosis"], "operating_point": "screening", "prevalence": {"tuberculosis": 0.005}},
        {"findings": ["*", "TUB*"]},
        {"models": ["offers", "plain"], "prevalence": {"nodule": 0.1}},
        {"models": ["broken"], "findings": ["x"], "prevalence": {"x": 0.1}},  # why it is broken is told elsewhere
    ],
)
def test_what_the_models_have_may_be_asked_for(route: dict[str, Any]) -> None:
    assert faults(settings(**route), {"offers": OFFERS, "plain": PLAIN}) == []


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (
            {"findings": ["nodule", "tubercolosis"]},
            ["route 'chest': findings: 'tubercolosis' fits no class of offers; it has: nodule, tuberculosis"],
        ),
        (
            {"operating_point": "low_alarm"},
            ["route 'chest': operating point 'low_alarm' is not offered by offers; it offers: balanced, screening"],
        ),
        (
            {"shadow": ["plain"], "operating_point": "screening"},
            ["route 'chest': operating point 'screening' is not offered by plain; it offers: none"],
        ),
        (
            {"models": ["offers", "plain"], "prevalence": {"tb": 0.005}},
            [
                "route 'chest': prevalence: 'tb' is no class of its models; offers has nodule, tuberculosis; "
                "plain has nodule, tuberculosis"
            ],
        ),
    ],
)
def test_what_a_model_does_not_have_is_told(route: dict[str, Any], told: list[str]) -> None:
    assert faults(settings(**route), {"offers": OFFERS, "plain": PLAIN}) == told


def test_the_check_and_the_start_of_a_node_both_tell(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\nport = 0\n[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
        'destination = true\n[[routes]]\nname = "chest"\nmodels = ["phantom_cxr"]\nto = ["pacs"]\n'
        'findings = ["nodul"]\nprevalence = {tb = 0.005}\n',
        encoding="utf-8",
    )
    classes = ", ".join(each.key for each in describe(shipped()["phantom_cxr"]).spec.outputs)
    told = [
        f"route 'chest': findings: 'nodul' fits no class of phantom_cxr; it has: {classes}",
        f"route 'chest': prevalence: 'tb' is no class of its models; phantom_cxr has {classes}",
    ]
    assert [point.text for point in points(file) if point.what == "routes"] == told
    assert {point.verdict for point in points(file) if point.what == "routes"} == {"FAIL"}
    with pytest.raises(ConfigError) as raised:
        Node(load(file))
    assert str(raised.value).splitlines() == told


def test_a_damaged_bundle_is_told_when_it_is_loaded_and_not_here(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "reading.json").write_text("{", encoding="utf-8")
    Node(settings_for(tmp_path, pacs_port=1), bundles={"phantom_cxr": tmp_path / "bundle"})
