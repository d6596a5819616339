"""The translations of what a model says in English: names of classes by code, notice and intended use by their text."""

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
    ("51440002", "SCT"): {"ko": "양측", "ja": "両側"},
}
NOTICES: dict[str, dict[Language, str]] = {
    "Demonstration model, trained on no patient": {
        "ko": "시연용 모델, 환자 영상으로 학습되지 않음",
        "ja": "デモ用モデル、患者画像による学習なし",
    },
    "Research model, not for diagnostic use": {
        "ko": "연구용 모델, 진단 목적으로 사용할 수 없음",
        "ja": "研究用モデル、診断目的には使用できません",
    },
}
INTENDED_USES: dict[str, dict[Language, str]] = {
    "Demonstration and testing of the node with procedural phantoms of chest radiographs. It was trained on no patient "
    "and must not be used for diagnosis, triage or any other decision about a patient.": {
        "ko": "계산으로 그린 흉부 X선 팬텀 영상을 이용한 시스템의 시연과 시험. 환자 영상으로 학습되지 않았으며, 진단, "
        "환자 분류 또는 환자에 관한 그 밖의 어떤 결정에도 사용해서는 안 됨.",
        "ja": "計算で描いた胸部X線ファントム画像によるシステムのデモと試験。患者画像による学習はなく、診断、"
        "トリアージ、その他患者に関するいかなる判断にも使用してはなりません。",
    },
    "Research and technical evaluation on frontal chest radiographs (PA or AP) of adults. Trained on public research "
    "images whose labels come mostly from reports by text mining. It must not be used for diagnosis, triage or any "
    "other decision about a patient, for children and adolescents, or for lateral views.": {
        "ko": "성인 정면 흉부 X선 영상(PA 또는 AP)에 대한 연구와 기술 평가. 대부분 판독문에서 자동 추출한 표지가 붙은 "
        "공개 연구용 영상으로 학습됨. 진단, 환자 분류 또는 환자에 관한 그 밖의 어떤 결정에도, 소아와 청소년에게도, "
        "측면 영상에도 사용해서는 안 됨.",
        "ja": "成人の正面胸部X線画像（PAまたはAP）についての研究と技術評価。ラベルの多くを読影レポートから自動抽出した"
        "公開研究用画像で学習。診断、トリアージ、その他患者に関するいかなる判断にも、小児・青年にも、側面像にも使用しては"
        "なりません。",
    },
}
