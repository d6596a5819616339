"""The translations of what a model says in English: the names of its classes, by code, and its notice."""

from __future__ import annotations

from dicom_node.config.values import Language

NAMES: dict[tuple[str, str], dict[Language, str]] = {
    ("27925004", "SCT"): {"ko": "결절", "ja": "結節"},
    ("4147007", "SCT"): {"ko": "종괴", "ja": "腫瘤"},
    ("nodule_or_mass", "99DICOMNODE"): {"ko": "결절 또는 종괴", "ja": "結節または腫瘤"},
    ("36118008", "SCT"): {"ko": "기흉", "ja": "気胸"},
    ("tb_susp", "99DICOMNODE"): {"ko": "폐결핵 의심 소견", "ja": "肺結核疑い所見"},
    ("pneumonia_susp", "99DICOMNODE"): {"ko": "폐렴 의심 소견", "ja": "肺炎疑い所見"},
    ("233604007", "SCT"): {"ko": "폐렴", "ja": "肺炎"},
    ("95436008", "SCT"): {"ko": "경화", "ja": "コンソリデーション"},
    ("60046008", "SCT"): {"ko": "흉수", "ja": "胸水"},
    ("8186001", "SCT"): {"ko": "심비대", "ja": "心拡大"},
    ("168734001", "SCT"): {"ko": "이상 소견", "ja": "異常所見"},
    ("46621007", "SCT"): {"ko": "무기폐", "ja": "無気肺"},
    ("125605004", "SCT"): {"ko": "골절", "ja": "骨折"},
    ("112121", "DCM"): {"ko": "침윤", "ja": "浸潤影"},
    ("112001", "DCM"): {"ko": "음영", "ja": "陰影"},
    ("112033", "DCM"): {"ko": "이상 음영", "ja": "異常陰影"},
    ("263654008", "SCT"): {"ko": "비정상", "ja": "異常"},
    ("17621005", "SCT"): {"ko": "정상", "ja": "正常"},
    ("39607008", "SCT"): {"ko": "폐", "ja": "肺"},
    ("3120008", "SCT"): {"ko": "흉막", "ja": "胸膜"},
    ("80891009", "SCT"): {"ko": "심장", "ja": "心臓"},
    ("7771000", "SCT"): {"ko": "좌측", "ja": "左"},
    ("24028007", "SCT"): {"ko": "우측", "ja": "右"},
}
NOTICES: dict[str, dict[Language, str]] = {
    "Demonstration model, trained on no patient": {
        "ko": "시연용 모델, 환자 영상으로 학습되지 않음",
        "ja": "デモ用モデル、患者画像による学習なし",
    },
}
