"""Codes for the class names that published classifiers of chest radiographs use.

The names are those of NIH ChestX-ray14 (Wang et al. 2017) and of TorchXRayVision (Cohen et al. 2022), and the keys of
the bundles that ship. A code says what a picture shows, not the disease behind it: pneumonia and tuberculosis cannot be
seen, only suspected. A name without a reliable code of that kind gets a private code, in a coding scheme that begins
with 99 (PS3.3 section 8.2). Where each code was checked: ``docs/reference/codes.md``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from ai.contract import Code

PRIVATE_SCHEME: Final = "99DICOMNODE"

NIH14: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
XRV18: Final = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)

_LUNG = Code("39607008", "SCT", "Lung")
_PLEURA = Code("3120008", "SCT", "Pleura")
_HEART = Code("80891009", "SCT", "Heart")
_MEDIASTINUM = Code("72410000", "SCT", "Mediastinum")
_DIAPHRAGM = Code("5798000", "SCT", "Diaphragm")

OPACITY: Final = Code("112001", "DCM", "Opacity")
NODULE: Final = Code("27925004", "SCT", "Nodule")
MASS: Final = Code("4147007", "SCT", "Mass")
CONSOLIDATION: Final = Code("95436008", "SCT", "Lung consolidation")
INFILTRATE: Final = Code("112121", "DCM", "Infiltrate")
PNEUMONIA: Final = Code("233604007", "SCT", "Pneumonia")
"""The disease: a condition that an opacity may stand for, never the code of a finding."""
_EFFUSION = Code("60046008", "SCT", "Pleural effusion")

# key: code of the finding, or None if only a private code is right; and code of its site, or None.
_KNOWN: Final[dict[str, tuple[Code | None, Code | None]]] = {
    "abnormality": (Code("168734001", "SCT", "Standard chest X-ray abnormal"), None),
    "airspace_opacity": (OPACITY, _LUNG),
    "atelectasis": (Code("46621007", "SCT", "Atelectasis"), _LUNG),
    "cardiomegaly": (Code("8186001", "SCT", "Cardiomegaly"), _HEART),
    "consolidation": (CONSOLIDATION, _LUNG),
    "edema": (Code("19242006", "SCT", "Pulmonary edema"), _LUNG),
    "effusion": (_EFFUSION, _PLEURA),
    "emphysema": (Code("87433001", "SCT", "Pulmonary emphysema"), _LUNG),
    "enlarged_cardiomediastinum": (None, _MEDIASTINUM),
    "fibrosis": (Code("51615001", "SCT", "Fibrosis of lung"), _LUNG),
    "fracture": (Code("125605004", "SCT", "Fracture of bone"), None),
    "hernia": (Code("39839004", "SCT", "Diaphragmatic hernia"), _DIAPHRAGM),
    "infiltration": (INFILTRATE, _LUNG),
    "lung_lesion": (None, _LUNG),
    "lung_opacity": (OPACITY, _LUNG),
    "mass": (MASS, _LUNG),
    "nodule": (NODULE, _LUNG),
    "nodule_or_mass": (Code("nodule_or_mass", PRIVATE_SCHEME, "Nodule or mass"), _LUNG),
    "pleural_effusion": (_EFFUSION, _PLEURA),
    "pleural_thickening": (None, _PLEURA),
    "pneumonia": (Code("pneumonia_susp", PRIVATE_SCHEME, "Imaging finding suspicious for pneumonia"), _LUNG),
    "pneumothorax": (Code("36118008", "SCT", "Pneumothorax"), _PLEURA),
    "tuberculosis": (Code("tb_susp", PRIVATE_SCHEME, "Imaging finding suspicious for pulmonary tuberculosis"), _LUNG),
}
DIFFERENTIALS: Final[dict[str, tuple[Code, ...]]] = {
    "airspace_opacity": (PNEUMONIA, CONSOLIDATION, INFILTRATE),
    "nodule_or_mass": (NODULE, MASS),
}
"""What a class of several conditions stands for, by its key: the model cannot tell these apart."""


def key_of(name: str) -> str:
    """The key of a class from its name: lower case, underscores between words, at most 32 characters."""
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (key if key[:1].isalpha() else f"class_{key}")[:32].rstrip("_")


def meaning_of(name: str) -> str:
    """The name of a class for display."""
    return " ".join(name.replace("_", " ").split())


def finding_code(name: str) -> tuple[Code, Code | None]:
    """The code of a class and the code of its site, by its name. The code is private if no other is known."""
    key = key_of(name)
    code, site = _KNOWN.get(key, (None, None))
    return code or private_code(key, meaning_of(name)), site


def private_code(key: str, meaning: str) -> Code:
    """A private code, which is the same for the same key. It has at most 16 characters, as VR SH."""
    value = key if len(key) <= 16 else f"{key[:9]}_{hashlib.sha256(key.encode()).hexdigest()[:6]}"
    return Code(value, PRIVATE_SCHEME, meaning[:64])
