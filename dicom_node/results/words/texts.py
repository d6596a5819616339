"""The texts of the results in English, Korean and Japanese; DICOM codes are the same in every language.

Start here for: the wording of any sentence in a result (`WORDS`), the names of classes (`_NAMES`), a new language.

Models speak English: names of classes, notices and reasons come in it. They are translated if the tables below have
them and stay English otherwise. Nothing is left out because a translation is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai.contract import Code, Presence
from dicom_node.config.values import Language
from dicom_node.results.words import reasons

_NAMES: dict[tuple[str, str], dict[Language, str]] = {
    ("27925004", "SCT"): {"ko": "결절", "ja": "結節"},
    ("427359005", "SCT"): {"ko": "고립성 폐결절", "ja": "孤立性肺結節"},
    ("4147007", "SCT"): {"ko": "종괴", "ja": "腫瘤"},
    ("309529002", "SCT"): {"ko": "폐종괴", "ja": "肺腫瘤"},
    ("36118008", "SCT"): {"ko": "기흉", "ja": "気胸"},
    ("154283005", "SCT"): {"ko": "폐결핵", "ja": "肺結核"},
    ("233604007", "SCT"): {"ko": "폐렴", "ja": "肺炎"},
    ("95436008", "SCT"): {"ko": "경화", "ja": "コンソリデーション"},
    ("60046008", "SCT"): {"ko": "흉수", "ja": "胸水"},
    ("8186001", "SCT"): {"ko": "심비대", "ja": "心拡大"},
    ("46621007", "SCT"): {"ko": "무기폐", "ja": "無気肺"},
    ("125605004", "SCT"): {"ko": "골절", "ja": "骨折"},
    ("112121", "DCM"): {"ko": "침윤", "ja": "浸潤影"},
    ("112001", "DCM"): {"ko": "음영", "ja": "陰影"},
    ("112033", "DCM"): {"ko": "이상 음영", "ja": "異常陰影"},
    ("263654008", "SCT"): {"ko": "비정상", "ja": "異常"},
    ("17621005", "SCT"): {"ko": "정상", "ja": "正常"},
    ("39607008", "SCT"): {"ko": "폐", "ja": "肺"},
    ("7771000", "SCT"): {"ko": "좌측", "ja": "左"},
    ("24028007", "SCT"): {"ko": "우측", "ja": "右"},
}
_NOTICES: dict[str, dict[Language, str]] = {
    "Demonstration model, trained on no patient": {
        "ko": "시연용 모델, 환자 영상으로 학습되지 않음",
        "ja": "デモ用モデル、患者画像による学習なし",
    },
}


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language. The method with the name of a private field fills the ``{}`` places of that field."""

    language: Language
    locale: tuple[str, str]
    """Language of Content Item as RFC 5646 tag and its meaning (CID 5000), the meaning in English as all meanings."""
    not_for_diagnosis: str
    no_findings: str
    findings_without_region: str
    incomplete: str
    incomplete_without_findings: str
    no_negative_result: str
    other_reasons: str
    score: str
    threshold: str
    report: str
    finding: str
    side: str
    certainty: str
    size: str
    verdict: str
    patient: str
    study: str
    see_report: str
    intended_use: str
    sides_of_box: str
    at_detector: str
    key_images: str
    light_captions: str
    no_picture: str
    presence: dict[Presence, str]
    not_assessed_class: str
    _findings: tuple[str, str]
    _outlined: tuple[str, str, str]
    _parts: tuple[str, str]
    _failed: str
    _read_at: str
    _image_of: str
    _slice: str
    _frame: str
    _none_here: str
    _not_read: str
    _read_by: str
    _replaces: str
    _heat_map: str
    _montage: str
    _axes: str
    _more: tuple[str, str]
    _unreadable: str
    _not_assessed: str

    def name(self, code: Code, english: str) -> str:
        """The name of a coded concept."""
        return _NAMES.get((code.value, code.scheme), {}).get(self.language, english)

    def notice(self, english: str) -> str:
        """A model's notice."""
        return _NOTICES.get(english, {}).get(self.language, english)

    def reason(self, english: str) -> str:
        """The reason why something was not read."""
        return reasons.translated(english, self.language)

    def findings(self, count: int) -> str:
        """The number of findings, as a verdict without a full stop."""
        return self._findings[count > 1].format(count)

    def outlined(self, count: int) -> str:
        """The number of outlined structures, for a model that looks for no findings."""
        return self._outlined[min(count, 2)].format(count)

    def parts(self, count: int) -> str:
        """The number of parts that were passed over: a reading does not tell images from other objects and series."""
        return self._parts[count > 1].format(count)

    def failed(self, reason: str) -> str:
        """That nothing could be read, and that this is no negative answer."""
        return self._failed.format(reason)

    def read_at(self, time: str) -> str:
        """When the reading was made."""
        return self._read_at.format(time)

    def image_of(self, number: int, total: int) -> str:
        """The number of this image among the images read."""
        return self._image_of.format(number, total)

    def slice(self, number: int) -> str:
        """The instance number of a slice."""
        return self._slice.format(number)

    def frame(self, number: int) -> str:
        """The number of a frame."""
        return self._frame.format(number)

    def none_here(self, study: str) -> str:
        """That the verdict ``study`` holds for the study, and that nothing lies on this image."""
        return self._none_here.format(study)

    def not_read(self, count: int, reasons: str) -> str:
        """How much of the study was not read, and why."""
        return self._not_read.format(self.parts(count), reasons)

    def read_by(self, model: str, version: str, manufacturer: str) -> str:
        """The model that made the reading."""
        return self._read_by.format(model, version, manufacturer)

    def replaces(self, time: str) -> str:
        """That this report replaces an earlier one."""
        return self._replaces.format(time)

    def heat_map(self, names: str) -> str:
        """What a heat map shows."""
        return self._heat_map.format(names)

    def montage(self, shown: int, total: int) -> str:
        """How many of a series' slices a montage shows."""
        return self._montage.format(shown, total)

    def axes(self, long: str, short: str) -> str:
        """The two axes of a finding in mm."""
        return self._axes.format(long, short)

    def more_findings(self, count: int) -> str:
        """The number of findings on images that have no picture."""
        return self._more[count > 1].format(count)

    def unreadable(self, count: int, reasons: str) -> str:
        """How much of what should have been read could not be read, and why."""
        return self._unreadable.format(self.parts(count), reasons)

    def not_assessed(self, names: Sequence[str]) -> str:
        """The classes that the model has but gives no verdict on."""
        return self._not_assessed.format(("、" if self.language == "ja" else ", ").join(names))


WORDS: dict[Language, Words] = {
    "en": Words(
        language="en",
        locale=("en-US", "English (United States)"),
        not_for_diagnosis="AI - not for diagnostic use",
        no_findings="No findings",
        findings_without_region="Findings without a region",
        incomplete="incomplete reading: not every class could be determined",
        incomplete_without_findings="Incomplete reading: no findings in what could be read",
        no_negative_result="This is not a negative result",
        other_reasons="other reasons in the report",
        score="score",
        threshold="threshold",
        report="AI report",
        finding="Finding",
        side="Side",
        certainty="Certainty",
        size="Size",
        verdict="Verdict",
        patient="Patient",
        study="Study",
        see_report="see the report",
        intended_use="Intended use",
        sides_of_box="Long and short axis are the sides of the box",
        at_detector="measured at the detector, where the magnification makes things larger than they are",
        key_images="Images with findings of the AI reading",
        light_captions="Images with a light caption have a picture of their own",
        no_picture="The image itself cannot be displayed",
        presence={
            Presence.PRESENT: "present",
            Presence.ABSENT: "absent",
            Presence.UNDETERMINED: "undetermined",
        },
        not_assessed_class="not assessed",
        _findings=("{} finding with a region", "{} findings with a region"),
        _outlined=("No structure outlined", "{} structure outlined", "{} structures outlined"),
        _parts=("{} image, other object or series", "{} images, other objects or series"),
        _failed="AI reading failed: {}",
        _read_at="Read {}",
        _image_of="Image {} of {}",
        _slice="Slice {}",
        _frame="Frame {}",
        _none_here="No findings in this image; {} in the study",
        _not_read="Not read: {}: {}",
        _read_by="Read by {} version {}, {}",
        _replaces="Replaces the report of {}",
        _heat_map="Heat map: where the model saw {}",
        _montage="Overview: {} of {} images",
        _axes="{} x {} mm",
        _more=(
            "{} more finding lies on an image that has no picture of its own",
            "{} more findings lie on images that have no picture of their own",
        ),
        _unreadable="{} to be read could not be read: {}",
        _not_assessed="Not assessed by this model: {}",
    ),
    "ko": Words(
        language="ko",
        locale=("ko-KR", "Korean (Korea)"),
        not_for_diagnosis="AI - 진단 목적으로 사용할 수 없음",
        no_findings="발견된 소견 없음",
        findings_without_region="위치가 표시되지 않은 소견 있음",
        incomplete="불완전한 분석: 일부 항목은 판정할 수 없음",
        incomplete_without_findings="불완전한 분석: 분석된 범위에서 발견된 소견 없음",
        no_negative_result="음성 결과가 아님",
        other_reasons="그 밖의 사유는 보고서 참조",
        score="점수",
        threshold="기준값",
        report="AI 분석 보고서",
        finding="소견",
        side="좌우",
        certainty="확신도",
        size="크기",
        verdict="판정",
        patient="환자",
        study="검사",
        see_report="보고서 참조",
        intended_use="사용 목적",
        sides_of_box="장축과 단축은 표시 상자의 변의 길이임",
        at_detector="검출기면에서 측정한 값으로, 확대되어 실제보다 큼",
        key_images="AI 분석 소견이 있는 영상",
        light_captions="캡션이 밝은 영상은 개별 그림이 있음",
        no_picture="영상을 표시할 수 없음",
        presence={Presence.PRESENT: "있음", Presence.ABSENT: "없음", Presence.UNDETERMINED: "판정 불가"},
        not_assessed_class="평가하지 않음",
        _findings=("위치가 표시된 소견 {}개", "위치가 표시된 소견 {}개"),
        _outlined=("윤곽이 표시된 구조물 없음", "윤곽이 표시된 구조물 {}개", "윤곽이 표시된 구조물 {}개"),
        _parts=("영상, 기타 객체 또는 시리즈 {}개", "영상, 기타 객체 또는 시리즈 {}개"),
        _failed="AI 분석 실패: {}",
        _read_at="분석 시각 {}",
        _image_of="영상 {} / {}",
        _slice="단면 {}",
        _frame="프레임 {}",
        _none_here="이 영상에는 소견 없음; 검사 전체: {}",
        _not_read="분석하지 않음: {}: {}",
        _read_by="분석 모델: {} 버전 {}, {}",
        _replaces="{}의 보고서를 대체함",
        _heat_map="히트맵: 모델이 {} 소견을 본 위치",
        _montage="개요: 전체 {1}개 영상 중 {0}개",
        _axes="{} x {} mm",
        _more=("개별 그림이 없는 영상에 소견 {}개가 더 있음", "개별 그림이 없는 영상에 소견 {}개가 더 있음"),
        _unreadable="분석 대상이지만 읽지 못한 항목: {} ({})",
        _not_assessed="이 모델이 평가하지 않는 항목: {}",
    ),
    "ja": Words(
        language="ja",
        locale=("ja-JP", "Japanese (Japan)"),
        not_for_diagnosis="AI - 診断目的には使用できません",
        no_findings="所見なし",
        findings_without_region="位置の示されない所見あり",
        incomplete="不完全な解析：一部の項目は判定できず",
        incomplete_without_findings="不完全な解析：解析できた範囲に所見なし",
        no_negative_result="陰性の結果ではありません",
        other_reasons="その他の理由はレポートを参照",
        score="スコア",
        threshold="閾値",
        report="AI解析レポート",
        finding="所見",
        side="左右",
        certainty="確信度",
        size="大きさ",
        verdict="判定",
        patient="患者",
        study="検査",
        see_report="レポートを参照",
        intended_use="使用目的",
        sides_of_box="長径・短径は枠の辺の長さ",
        at_detector="検出器面での計測値で、拡大により実際より大きい",
        key_images="AI解析の所見がある画像",
        light_captions="見出しの明るい画像には個別の図がある",
        no_picture="画像を表示できません",
        presence={Presence.PRESENT: "あり", Presence.ABSENT: "なし", Presence.UNDETERMINED: "判定不能"},
        not_assessed_class="評価対象外",
        _findings=("位置の示された所見 {}件", "位置の示された所見 {}件"),
        _outlined=("輪郭を示した構造なし", "輪郭を示した構造{}件", "輪郭を示した構造{}件"),
        _parts=("画像・その他のオブジェクト・シリーズ {}件", "画像・その他のオブジェクト・シリーズ {}件"),
        _failed="AI解析に失敗: {}",
        _read_at="解析時刻 {}",
        _image_of="画像 {} / {}",
        _slice="スライス {}",
        _frame="フレーム {}",
        _none_here="この画像に所見なし；検査全体：{}",
        _not_read="解析していないもの：{}：{}",
        _read_by="解析モデル：{} バージョン {}、{}",
        _replaces="{}のレポートの差し替え",
        _heat_map="ヒートマップ：モデルが{}を見た位置",
        _montage="一覧：全{1}画像中{0}画像",
        _axes="{} x {} mm",
        _more=("個別の図のない画像にさらに所見{}件あり", "個別の図のない画像にさらに所見{}件あり"),
        _unreadable="対象のうち読み取れなかったもの：{}（{}）",
        _not_assessed="このモデルが評価しない項目：{}",
    ),
}
