"""Why something was not read, in Korean and Japanese: patterns for the English reasons that `ai` gives.

Start here for the translation of a new reason. A reason without a pattern stays in English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dicom_node.config.values import Language

_Translations = dict[Language, str]

# How a rule names the values that it admits (ai.selection.volumes); {0} and {1} are these values.
_RANGES: tuple[tuple[str, _Translations], ...] = (
    (r"(\S+) to (.+)", {"ko": "{0}~{1}", "ja": "{0}～{1}"}),
    (r"(.+) or more", {"ko": "{0} 이상", "ja": "{0}以上"}),
    (r"(.+) or less", {"ko": "{0} 이하", "ja": "{0}以下"}),
)
_MEASURES: dict[str, _Translations] = {
    "number of slices": {"ko": "단면 수", "ja": "スライス数"},
    "slice thickness": {"ko": "단면 두께", "ja": "スライス厚"},
    "distance between slices": {"ko": "단면 간격", "ja": "スライス間隔"},
    "pixel size": {"ko": "픽셀 크기", "ja": "画素サイズ"},
}
_OTHERS: dict[str, _Translations] = {
    "another series of the study": {"ko": "검사의 다른 시리즈", "ja": "検査内の別のシリーズ"},
    "another stack of the series": {"ko": "시리즈의 다른 단면 묶음", "ja": "シリーズ内の別のスライス群"},
}
_BETTER: dict[str, _Translations] = {
    "preferred kernel": {"ko": "우선하는 재구성 커널", "ja": "優先される再構成カーネル"},
    "thinner slices": {"ko": "더 얇은 단면", "ja": "より薄いスライス"},
    "thicker slices": {"ko": "더 두꺼운 단면", "ja": "より厚いスライス"},
    "more slices": {"ko": "더 많은 단면", "ja": "より多いスライス"},
    "acquired later": {"ko": "더 나중에 촬영됨", "ja": "より後に撮影"},
}

# Why something was not read (ai.selection.images and the modules that it calls); {0} is the first group.
_REASONS: tuple[tuple[str, _Translations], ...] = (
    (
        r"it was removed from this system by retention",
        {"ko": "보존 기간이 지나 이 시스템에서 삭제됨", "ja": "保存期間を過ぎ、このシステムから削除済み"},
    ),
    (
        r"it is not of the kind that is read here",
        {"ko": "여기에서 분석하는 종류가 아님", "ja": "ここで読影する種類ではない"},
    ),
    (r"it is no image", {"ko": "영상이 아님", "ja": "画像ではない"}),
    (r"it has no pixels", {"ko": "픽셀 데이터가 없음", "ja": "画素データがない"}),
    (
        r"it has (\d+) frames, the model reads single images",
        {"ko": "프레임이 {0}개이며 모델은 단일 영상만 분석함", "ja": "フレーム数{0}、モデルは単一画像のみを読む"},
    ),
    (r"it is no grey image", {"ko": "회색조 영상이 아님", "ja": "グレースケール画像ではない"}),
    (r"it is a localizer", {"ko": "위치 결정 영상임", "ja": "位置決め画像である"}),
    (r"it is a derived secondary capture", {"ko": "파생된 2차 캡처 영상임", "ja": "派生した二次取得画像である"}),
    (
        r"it is derived and has annotations burned in",
        {"ko": "주석이 새겨진 파생 영상임", "ja": "注記が焼き込まれた派生画像である"},
    ),
    (
        r"it is for processing, not for presentation",
        {"ko": "표시용이 아닌 처리용 영상임", "ja": "表示用ではなく処理用の画像である"},
    ),
    (r"modality (.+) is not among (.+)", {"ko": "모달리티 {0}: 대상은 {1}", "ja": "モダリティ{0}：対象は{1}"}),
    (r"body part (.+) is not among (.+)", {"ko": "검사 부위 {0}: 대상은 {1}", "ja": "撮影部位{0}：対象は{1}"}),
    (r"view (.+) is not among (.+)", {"ko": "촬영 방향 {0}: 대상은 {1}", "ja": "撮影方向{0}：対象は{1}"}),
    (
        r"the patient is under (\d+), the model reads adults",
        {"ko": "환자가 {0}세 미만이며 모델은 성인만 분석함", "ja": "患者が{0}歳未満、モデルは成人のみを読む"},
    ),
    (r"it is a view from the side", {"ko": "측면 영상임", "ja": "側面像である"}),
    (
        r"the image does not look like an upright frontal chest radiograph, so it was not read",
        {
            "ko": "바르게 놓인 흉부 정면 영상으로 보이지 않아 분석하지 않음",
            "ja": "正立した胸部正面像に見えないため、読影していない",
        },
    ),
    (
        r"The image may not be an upright frontal chest radiograph of an adult; the answer may be worth little",
        {
            "ko": "성인의 바르게 놓인 흉부 정면 영상이 아닐 수 있으므로 이 결과의 가치는 낮을 수 있음",
            "ja": "成人の正立した胸部正面像ではない可能性があり、この結果の価値は低い可能性がある",
        },
    ),
    (
        r"Not shown, since outside the lungs or the body: (\d+) places?",
        {
            "ko": "폐 또는 신체 밖이어서 표시하지 않은 위치: {0}곳",
            "ja": "肺または体の外にあるため表示していない部位：{0}か所",
        },
    ),
    (
        r"no modality is given, and the model takes (.+)",
        {"ko": "모달리티 정보가 없음: 대상은 {0}", "ja": "モダリティの記載なし：対象は{0}"},
    ),
    (
        r"no body part is given, and the model takes (.+)",
        {"ko": "검사 부위 정보가 없음: 대상은 {0}", "ja": "撮影部位の記載なし：対象は{0}"},
    ),
    (
        r"no view is given, and the model takes (.+)",
        {"ko": "촬영 방향 정보가 없음: 대상은 {0}", "ja": "撮影方向の記載なし：対象は{0}"},
    ),
    (r"the same instance is in the study twice", {"ko": "같은 영상이 중복됨", "ja": "同じ画像が重複している"}),
    (
        r"the model reads at most (\d+) images? of a study",
        {"ko": "모델은 검사당 최대 {0}개 영상을 분석함", "ja": "モデルは検査あたり最大{0}画像を読む"},
    ),
    (
        r"the series description is none that the model takes",
        {"ko": "시리즈 설명이 모델의 대상이 아님", "ja": "シリーズ記述がモデルの対象外である"},
    ),
    (
        r"the series description is one that the model does not take",
        {"ko": "시리즈 설명이 모델의 제외 대상임", "ja": "シリーズ記述がモデルの除外対象である"},
    ),
    (
        r"it is a projection through the body, no slice",
        {"ko": "단면이 아닌 투영 영상임", "ja": "断面ではなく投影画像である"},
    ),
    (
        r"it shows the same as another image of the series",
        {"ko": "시리즈의 다른 영상과 동일함", "ja": "シリーズ内の別の画像と同一である"},
    ),
    (r"its header cannot be read", {"ko": "헤더를 읽을 수 없음", "ja": "ヘッダーを読み取れない"}),
    (
        r"an image of its series cannot be read",
        {"ko": "시리즈에 읽을 수 없는 영상이 있음", "ja": "シリーズ内に読み取れない画像がある"},
    ),
    (r"orientation (.+) is not among (.+)", {"ko": "단면 방향 {0}: 대상은 {1}", "ja": "断面方向{0}：対象は{1}"}),
    (r"kernel (.+) is not among (.+)", {"ko": "재구성 커널 {0}: 대상은 {1}", "ja": "再構成カーネル{0}：対象は{1}"}),
    (
        r"no kernel is given, and the model takes (.+)",
        {"ko": "재구성 커널 정보가 없음: 대상은 {0}", "ja": "再構成カーネルの記載なし：対象は{0}"},
    ),
    (r"a contrast agent was given", {"ko": "조영제를 사용함", "ja": "造影剤が使用された"}),
    (r"no contrast agent was given", {"ko": "조영제를 사용하지 않음", "ja": "造影剤が使用されていない"}),
    (
        r"its images hold another stack as large or larger",
        {"ko": "같은 영상에 크기가 같거나 더 큰 단면 묶음이 있음", "ja": "同じ画像に同等以上のスライス群が含まれる"},
    ),
    (
        r"different images lie at the same place \((\d+) of (\d+) places\)",
        {
            "ko": "같은 위치에 서로 다른 영상이 있음 (위치 {1}곳 중 {0}곳)",
            "ja": "同じ位置に異なる画像がある（{1}か所中{0}か所）",
        },
    ),
    (
        r"(\d+) slices? (?:is|are) missing: after slice (\d+) of (\d+) \(from the \w+\) the next lies (\S+) mm on, "
        r"not (\S+) mm",
        {
            "ko": "단면 {0}개 누락: {2}개 중 {1}번째 다음 간격이 {3} mm (보통 {4} mm)",
            "ja": "スライス{0}枚が欠落：{2}枚中{1}枚目の次の間隔が{3} mm（通常{4} mm）",
        },
    ),
    (
        r"the distance between its slices varies from (\S+) to (\S+) mm",
        {"ko": "단면 간격이 일정하지 않음: {0}~{1} mm", "ja": "スライス間隔が一定でない：{0}～{1} mm"},
    ),
    (
        r"its slices are shifted against one another",
        {"ko": "단면들이 서로 어긋나 있음", "ja": "スライスが互いにずれている"},
    ),
    (
        r"it has (\d+) frames and does not say where each of them lies",
        {"ko": "프레임 {0}개의 위치 정보가 없음", "ja": "フレーム{0}枚の位置の記載がない"},
    ),
    (
        r"the size of its matrix \(Rows, Columns\) is missing",
        {"ko": "영상 크기(Rows, Columns)가 없음", "ja": "画像サイズ（Rows, Columns）の記載がない"},
    ),
    (
        r"its ImageOrientationPatient is not two unit vectors at a right angle",
        {
            "ko": "ImageOrientationPatient가 직교하는 두 단위 벡터가 아님",
            "ja": "ImageOrientationPatientが直交する二つの単位ベクトルでない",
        },
    ),
    (r"its (\w+) is missing", {"ko": "{0} 값이 없음", "ja": "{0}の記載がない"}),
    (r"its (\w+) is not (\d+) numbers", {"ko": "{0} 값이 숫자 {1}개가 아님", "ja": "{0}が{1}個の数値でない"}),
    (r"its (\w+) is beyond every patient", {"ko": "{0} 값이 인체 범위를 벗어남", "ja": "{0}が人体の範囲を超えている"}),
    (r"its (\w+) is not positive", {"ko": "{0} 값이 양수가 아님", "ja": "{0}が正の値でない"}),
)


def _of_volumes() -> Iterator[tuple[str, _Translations]]:
    """The patterns of reasons that are composed of parts."""
    among: _Translations = {"ko": " {0}: 대상은 ", "ja": "{0}：対象は"}
    absent: _Translations = {"ko": " 정보가 없음: 대상은 ", "ja": "の記載なし：対象は"}
    better: _Translations = {"ko": "가 더 적합함: ", "ja": "の方が適する："}
    first: _Translations = {"ko": "도 똑같이 적합하며 앞섬", "ja": "も同様に適し、先に来る"}
    for english, measure in _MEASURES.items():
        for taken, words in _RANGES:
            later = {each: text.replace("{1}", "{2}").replace("{0}", "{1}") for each, text in words.items()}
            yield f"{english} (.+) is not among {taken}", _joined(measure, among, later)
            yield f"no {english} is given, and the model takes {taken}", _joined(measure, absent, words)
    for english, other in _OTHERS.items():
        yield f"{english} suits as well and comes first", _joined(other, first)
        for reason, why in _BETTER.items():
            yield f"{english} suits better: {reason}", _joined(other, better, why)


def _joined(*parts: _Translations) -> _Translations:
    return {language: "".join(part[language] for part in parts) for language in parts[0]}


REASONS = (*_REASONS, *_of_volumes())
"""Patterns of English reasons and their translations; ``{0}`` is the first group of the pattern."""


def translated(english: str, language: Language) -> str:
    """A reason in another language, or several with semicolons between; in English what has no translation."""
    for pattern, translations in REASONS:
        if language in translations and (found := re.fullmatch(pattern, english)):
            return translations[language].format(*found.groups())
    parts = english.split("; ")
    return "; ".join(translated(part, language) for part in parts) if len(parts) > 1 else english
