"""A Structured Report as indented plain text, for a person without a viewer."""

from __future__ import annotations

from pydicom.dataset import Dataset


def report_text(report: Dataset) -> str:
    """The content tree of an SR, one line for each item: concept name, then the value in words (PS3.3 C.17.3)."""
    title = _name(report) or "Report"
    state = f"{report.get('CompletionFlag', '')}, {report.get('VerificationFlag', '')}".strip(", ")
    lines = [title, "=" * len(title), f"({state})" if state else ""]
    for item in report.get("ContentSequence", []):
        _item(item, 0, lines)
    return "\n".join(line.rstrip() for line in lines if line) + "\n"


def _item(item: Dataset, depth: int, lines: list[str]) -> None:
    name, value = _name(item), _value(item)
    if name or value:
        lines.append("  " * depth + (f"{name}: {value}" if name and value else name or value))
    for child in item.get("ContentSequence", []):
        _item(child, depth + 1, lines)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeMeaning", "")) if names else ""


def _value(item: Dataset) -> str:  # noqa: PLR0911 - one return a value type
    match item.get("ValueType"):
        case "CODE":
            return str(item.ConceptCodeSequence[0].get("CodeMeaning", ""))
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "UIDREF":
            return str(item.get("UID", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "NUM":
            measured = item.get("MeasuredValueSequence")
            if not measured:
                return "no value"
            unit = measured[0].MeasurementUnitsCodeSequence[0].get("CodeValue", "")
            return f"{measured[0].NumericValue}{f' {unit}' if unit != '1' else ''}"  # UCUM's 1 is no unit
        case "SCOORD":
            points = [f"{value:.1f}" for value in item.get("GraphicData", [])]
            pairs = ", ".join(f"({x}, {y})" for x, y in zip(points[::2], points[1::2], strict=False))
            return f"{item.get('GraphicType', '')} (column, row) {pairs}"
        case "IMAGE" | "COMPOSITE":
            return f"image {item.ReferencedSOPSequence[0].get('ReferencedSOPInstanceUID', '')}"
        case _:
            return ""
