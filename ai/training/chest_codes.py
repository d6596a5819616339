"""Codes for the class names that published classifiers of chest radiographs use.

The names are those of NIH ChestX-ray14 (Wang et al. 2017) and of TorchXRayVision (Cohen et al. 2022). A name without a
reliable code gets a private code, in a coding scheme that begins with 99 (PS3.3 section 8.2).
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

# key: code of the finding, or None if only a private code is right; and code of its site, or None.
_KNOWN: Final[dict[str, tuple[Code | None, Code | None]]] = {
    "atelectasis": (Code("46621007", "SCT", "Atelectasis"), _LUNG),
    "cardiomegaly": (Code("8186001", "SCT", "Cardiomegaly"), _HEART),
    "consolidation": (Code("95436008", "SCT", "Lung consolidation"), _LUNG),
    "edema": (Code("19242006", "SCT", "Pulmonary edema"), _LUNG),
    "effusion": (Code("60046008", "SCT", "Pleural effusion"), _PLEURA),
    "emphysema": (Code("87433001", "SCT", "Pulmonary emphysema"), _LUNG),
    "enlarged_cardiomediastinum": (None, _MEDIASTINUM),
    "fibrosis": (Code("51615001", "SCT", "Fibrosis of lung"), _LUNG),
    "fracture": (Code("125605004", "SCT", "Fracture of bone"), None),
    "hernia": (Code("39839004", "SCT", "Diaphragmatic hernia"), _DIAPHRAGM),
    "infiltration": (Code("409609008", "SCT", "Radiologic infiltrate of lung"), _LUNG),
    "lung_lesion": (None, _LUNG),
    "lung_opacity": (Code("112001", "DCM", "Opacity"), _LUNG),
    "mass": (Code("309529002", "SCT", "Lung mass"), _LUNG),
    "nodule": (Code("427359005", "SCT", "Solitary nodule of lung"), _LUNG),
    "pleural_effusion": (Code("60046008", "SCT", "Pleural effusion"), _PLEURA),
    "pleural_thickening": (None, _PLEURA),
    "pneumonia": (Code("233604007", "SCT", "Pneumonia"), _LUNG),
    "pneumothorax": (Code("36118008", "SCT", "Pneumothorax"), _LUNG),
    "tuberculosis": (Code("154283005", "SCT", "Pulmonary tuberculosis"), _LUNG),
}


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
