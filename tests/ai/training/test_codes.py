"""The codes of findings: what was seen, each on the page that says where it was checked."""

from __future__ import annotations

import re

import pytest
from pydicom.sr._concepts_dict import concepts

from ai.bundle.files import describe, shipped
from ai.bundle.manifest import CodeSpec
from ai.training.chest_codes import DIFFERENTIALS, NIH14, PRIVATE_SCHEME, XRV18, finding_code, key_of
from dicom_node.operations.preflight.study import _CLASSES
from tests.support.programs import ROOT

DISEASES = {"154283005", "233604007", "56717001", "363358000"}  # tuberculosis (twice), pneumonia, cancer of the lung
LISTED = re.compile(r"\b([\w-]+), (SCT|DCM|LN|99DICOMNODE), ([^|;]+?) \|(.*)")


def used() -> list[CodeSpec]:
    """Every code of a finding and of a site: both bundles, and the names of published weights."""
    found = []
    for path in shipped().values():
        for output in describe(path).spec.outputs:
            found += [output.code, *([output.site] if output.site else []), *output.differential]
    for name in (*NIH14, *XRV18, *DIFFERENTIALS):
        code, site = finding_code(name)
        found += [CodeSpec.of(each) for each in (code, site) if each]
    return found


def test_no_finding_states_a_disease_that_a_picture_cannot_know() -> None:
    findings = {output.code.value for path in shipped().values() for output in describe(path).spec.outputs}
    findings |= {finding_code(name)[0].value for name in (*NIH14, *XRV18)}
    assert not findings & DISEASES
    for key in ("pneumonia", "tuberculosis"):
        code, _ = finding_code(key)
        assert (code.scheme, "suspicious for" in code.meaning) == (PRIVATE_SCHEME, True)


def test_two_nodules_are_not_called_solitary_and_air_in_the_pleura_is_not_in_the_lung() -> None:
    assert finding_code("Nodule")[0].meaning == "Nodule"
    for path in shipped().values():
        for output in describe(path).spec.outputs:
            assert "olitary" not in output.code.meaning
            if output.key == "pneumothorax":
                assert output.site is not None
                assert output.site.value == "3120008"


@pytest.mark.parametrize("what", ["every code is on the page", "what PS3.16 has is what it says"])
def test_the_page_of_codes_is_true(what: str) -> None:
    page = (ROOT / "docs" / "reference" / "codes.md").read_text(encoding="utf-8")
    listed = {(found[1], found[2]): (found[3], found[4]) for found in LISTED.finditer(page)}
    if what == "every code is on the page":
        own = {CodeSpec.of(finding_code(name)[0]) for name in (*NIH14, *XRV18) if private(name)}
        for code in set(used()) - own:
            assert f"{code.value}, {code.scheme}, {code.meaning}" in page
        return
    checked = 0
    for (value, scheme), (meaning, rest) in listed.items():
        cids = [int(number) for number in re.findall(r"\d+", rest.partition("PS3.16: CID")[2])]
        known = {each: groups for codes in concepts.get(scheme, {}).values() for each, groups in codes.items()}
        for cid in cids:
            said = [codes[value] for codes in concepts[scheme].values() if value in codes]
            assert any(cid in groups for _, groups in said), (value, cid)
            checked += 1
        if cids:
            assert value in known
            assert any(meaning.split()[0] in name for name, _ in said), (value, meaning)
    assert checked > 15


def private(name: str) -> bool:
    """Whether the code is only the class's own name."""
    code, _ = finding_code(name)
    return code.scheme == PRIVATE_SCHEME and "suspicious" not in code.meaning and key_of(name) not in DIFFERENTIALS


def test_the_test_study_shows_the_codes_that_the_node_sends() -> None:
    outputs = {output.key: output for output in describe(shipped()["phantom_cxr"]).spec.outputs}
    for key, (name, code, site) in _CLASSES.items():
        own = outputs[key]
        assert (name, code, site) == (own.name, own.code.code(), own.site.code() if own.site else None)
