"""The colours of classes: one for ever, and far enough apart for eyes of every kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ai.contract import ClassResult, Code, NotLookedFor, Presence, Reading
from ai.training.chest_codes import NIH14, XRV18, finding_code, key_of
from dicom_node.results.pictures.palette import COLOURS, Palette, place_of
from tests.results.test_common import MODEL

Floats = NDArray[np.float64]

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes: A Physiologically-based Model for Simulation of Color Vision
# Deficiency (2009), severity 1.0, on linear RGB.
_VISION = {
    "trichromat": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanope": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranope": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
}


def linear(colour: Any) -> Floats:
    """IEC 61966-2-1: sRGB (0 to 255) as linear light."""
    value = np.asarray(colour, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light: Floats) -> Floats:
    """CIE 1976 L*a*b* of linear light, white point D65."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = np.array(to_xyz) @ light.clip(0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: Floats, other: Floats) -> float:
    """CIEDE2000 (ISO/CIE 11664-6), all weights 1."""
    chroma = (np.hypot(*one[1:]) + np.hypot(*other[1:])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    (l1, a1, b1), (l2, a2, b2) = one, other
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    middle = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    light, strong = (l1 + l2) / 2, (c1 + c2) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(size * np.cos(np.radians(times * middle + shift)) for size, times, shift in waves)
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * strong, 1 + 0.015 * strong * t
    turned = -2 * np.sqrt(strong**7 / (strong**7 + 25.0**7))
    turned *= np.sin(np.radians(60 * np.exp(-(((middle - 275) / 25) ** 2))))
    parts = (l2 - l1) / s_l, (c2 - c1) / s_c, hue / s_h
    return float(np.sqrt(sum(part**2 for part in parts) + turned * parts[1] * parts[2]))


def reading(*classes: ClassResult, **changes: Any) -> Reading:
    return replace(Reading(MODEL, (), (), classes, (), ()), **changes)


def result(key: str, code: Code, presence: Presence = Presence.ABSENT) -> ClassResult:
    return ClassResult(key, key, code, 0.1, 0.5, presence)


NODULE, EFFUSION = Code("427359005", "SCT", "Nodule"), Code("60046008", "SCT", "Pleural effusion")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # G. Sharma, W. Wu, E. N. Dalal: The CIEDE2000 Color-Difference Formula (2005), table 1
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ],
)
def test_the_difference_is_that_of_its_authors(one: Any, other: Any, expected: float) -> None:
    assert difference(np.array(one, float), np.array(other, float)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", _VISION)
def test_any_two_colours_can_be_told_apart(vision: str) -> None:
    seen = [lab((np.array(_VISION[vision]) @ linear(colour)).clip(0, 1)) for colour in COLOURS]
    assert min(difference(one, other) for one, other in combinations(seen, 2)) > 9.8


def test_every_colour_stands_out_from_the_greys_of_an_image() -> None:
    greys = [lab(linear([level] * 3)) for level in range(0, 256, 5)]
    for colour in COLOURS:
        assert min(difference(lab(linear(colour)), grey) for grey in greys) > 12


def test_a_class_keeps_its_colour_whatever_stands_before_it_and_is_found() -> None:
    other = result("other", Code("1", "99X", "x"))
    alone = Palette(reading(result("nodule", NODULE))).classes["nodule"]
    for presence in Presence:
        both = Palette(reading(other, result("effusion", EFFUSION, presence), result("lump", NODULE, presence)))
        assert both.classes["lump"] == alone
    hidden = Palette(reading(not_looked_for=(NotLookedFor("nodule", "Nodule", NODULE),)))
    assert hidden.classes["nodule"] == alone


@pytest.mark.parametrize(
    ("key", "public"),
    [
        ("nodule_or_mass", NODULE),
        ("tuberculosis", Code("154283005", "SCT", "Pulmonary tuberculosis")),
        ("pneumonia", Code("233604007", "SCT", "Pneumonia")),
    ],
)
def test_a_suspicion_has_the_colour_of_what_is_suspected(key: str, public: Code) -> None:
    assert place_of(finding_code(key)[0]) == place_of(public)


@pytest.mark.parametrize("names", [NIH14, XRV18])
def test_each_class_of_published_models_has_a_place_of_its_own(names: tuple[str, ...]) -> None:
    """None has a colour by chance, and none gives way to another."""
    codes = {key_of(name): finding_code(name)[0] for name in (*names, "abnormality")}
    places = {key: place_of(code) for key, code in codes.items()}
    assert len(set(places.values())) == len(places)
    colours = Palette(reading(*(result(key, code) for key, code in codes.items()))).classes
    assert colours == {key: COLOURS[place] for key, place in places.items()}


def test_the_colours_of_a_model_are_the_same_when_fewer_classes_are_looked_for() -> None:
    codes = {f"c{n}": Code(str(n), "99X", "x") for n in range(12)}
    whole = Palette(reading(*(result(key, code) for key, code in codes.items()))).classes
    some = [result(key, code) for key, code in codes.items() if key in ("c3", "c7")]
    rest = tuple(NotLookedFor(key, key, code) for key, code in reversed(codes.items()) if key not in ("c3", "c7"))
    assert Palette(reading(*some, not_looked_for=rest)).classes == whole


def test_as_many_classes_as_there_are_colours_have_one_each() -> None:
    known = [result("nodule", NODULE), result("effusion", EFFUSION)]
    unknown = [result(f"c{n}", Code(str(n), "99X", "x")) for n in range(len(COLOURS) - 2)]
    assert sorted(Palette(reading(*unknown, *known)).classes.values()) == sorted(COLOURS)
    assert Palette(reading(*unknown, *known)).classes["nodule"] == Palette(reading(*known)).classes["nodule"]
