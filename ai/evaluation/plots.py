"""Plots the curves of a class, and pictures of wrong cases. matplotlib is imported when something is drawn.

No text of the file of labels is written into a plot, because matplotlib could take it for a formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ai.evaluation import metrics

if TYPE_CHECKING:
    from ai.contract import HeatMap
    from ai.evaluation.tables import LabelledBox
    from ai.inference.answers import MarkedBox

__all__ = ["MODEL_COLOUR", "READER_COLOUR", "case_picture", "curves"]

MODEL_COLOUR, READER_COLOUR = "#ffb000", "#5fd3ff"
"""The colours of the model's boxes (solid) and of the radiologist's (dashed). They also differ in lightness."""

_LINE, _PALE, _OTHER = "#1f4e79", "#8a8f98", "#b3530f"
_LOWEST, _FULL, _OPAQUE = 0.25, 0.5, 0.45  # a heat map is drawn from _LOWEST; from _FULL on with opacity _OPAQUE
_MANY_CURVES = 6


def curves(
    figures: Mapping[str, Any],
    scores: NDArray[np.float64],
    there: NDArray[np.bool_],
    strata: Sequence[str] | None = None,
) -> bytes:
    """ROC curve, precision-recall curve and calibration of one class, as a PNG.

    Args:
        figures: the figures of the class, from `ai.evaluation.measure.class_figures`.
        scores: (n,), of the images that count.
        there: (n,), whether the class is present.
        strata: (n,), the images' values of the column ``within``. Each value gets an ROC curve of its own, numbered in
            the order of ``figures["within"]``. None draws one curve.
    """
    import matplotlib as mpl  # noqa: PLC0415  (seconds; only a report needs it)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    plain: dict[Any, Any] = {
        "font.size": 9,
        "font.family": ["DejaVu Sans"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
        "axes.grid": True,
        "grid.color": "#e3e6ea",
        "axes.axisbelow": True,
    }
    with mpl.rc_context(plain):
        figure = Figure(figsize=(11.0, 3.5), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        roc, precision, calibration = figure.subplots(1, 3)
        _roc(roc, figures, scores, there, strata)
        _precision(precision, figures, scores, there)
        _calibration(calibration, figures)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _roc(
    axes: Any,
    figures: Mapping[str, Any],
    scores: NDArray[np.float64],
    there: NDArray[np.bool_],
    strata: Sequence[str] | None,
) -> None:
    axes.plot([0, 1], [0, 1], color=_PALE, linewidth=0.8, linestyle=(0, (4, 3)))
    if strata is None:
        false, true, _ = metrics.roc_curve(scores, there)
        axes.plot(false, true, color=_LINE, linewidth=1.6)
    else:
        of = np.asarray(strata)
        values = [part["value"] for part in figures["within"]][:_MANY_CURVES]
        shades = np.linspace(0.0, 0.6, len(values))
        for number, (value, shade) in enumerate(zip(values, shades, strict=True), start=1):
            false, true, _ = metrics.roc_curve(scores[of == value], there[of == value])
            colour = tuple(float(c + (1 - c) * shade) for c in (0.12, 0.31, 0.47))
            axes.plot(false, true, color=colour, linewidth=1.4, label=f"source {number}")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    sensitivity, specificity = (figures[name]["value"] for name in ("sensitivity", "specificity"))
    if sensitivity is not None and specificity is not None:
        axes.plot([1 - specificity], [sensitivity], "o", color=_OTHER, markersize=6, zorder=5)
        axes.annotate(
            f"threshold {figures['threshold']:.3g}",
            (1 - specificity, sensitivity),
            xytext=(8, -12),
            textcoords="offset points",
            color=_OTHER,
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    value = figures["auc"]
    title = "ROC"
    if value["value"] is not None:
        title = f"ROC: AUC {value['value']:.2f} [{value['low']:.2f} to {value['high']:.2f}]"
    axes.set(title=title, xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")


def _precision(axes: Any, figures: Mapping[str, Any], scores: NDArray[np.float64], there: NDArray[np.bool_]) -> None:
    recall, precision, _ = metrics.pr_curve(scores, there)
    prevalence = figures["positives"] / figures["images"] if figures["images"] else 0.0
    axes.axhline(prevalence, color=_PALE, linewidth=0.8, linestyle=(0, (4, 3)))
    # Steps, as the average precision sums them. A straight line between two points would show values of no threshold.
    recall, precision = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
    axes.step(recall, precision, where="pre", color=_LINE, linewidth=1.6)
    if figures["sensitivity"]["value"] is not None and figures["ppv"]["value"] is not None:
        axes.plot(
            [figures["sensitivity"]["value"]], [figures["ppv"]["value"]], "o", color=_OTHER, markersize=6, zorder=5
        )
    value = figures["average_precision"]
    title = "Precision and recall" + (f": AP {value:.2f} (chance {prevalence:.2f})" if value is not None else "")
    axes.set(title=title, xlabel="recall (sensitivity)", ylabel="precision (PPV)", xlim=(-0.02, 1.02))
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def _calibration(axes: Any, figures: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=_PALE, linewidth=0.8, linestyle=(0, (4, 3)))
    filled = figures["calibration"]
    x = [one["mean_score"] for one in filled]
    y = [one["share_positive"] for one in filled]
    ends = [metrics.wilson(round(one["share_positive"] * one["count"]), one["count"]) for one in filled]
    down = [max(share - low, 0.0) for share, (low, _) in zip(y, ends, strict=True)]
    up = [max(high - share, 0.0) for share, (_, high) in zip(y, ends, strict=True)]
    axes.errorbar(x, y, yerr=[down, up], fmt="o", color=_LINE, markersize=5, elinewidth=0.8, capsize=2)
    for one, share in zip(filled, y, strict=True):
        axes.annotate(
            f"{one['count']}", (one["mean_score"], share), xytext=(4, 3), textcoords="offset points", fontsize=7
        )
    axes.axvline(figures["threshold"], color=_OTHER, linewidth=0.9)
    value = figures["ece"]
    title = "Calibration" + (f": ECE {value:.3f}" if value is not None else "")
    axes.set(title=title, xlabel="mean score", ylabel="share of positives", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")


def case_picture(
    display: NDArray[np.float32],
    heat_maps: Sequence[HeatMap],
    found: Sequence[MarkedBox],
    drawn: Sequence[LabelledBox],
    *,
    side: int = 420,
) -> bytes:
    """One image with the model's heat maps and boxes (solid) and the radiologist's boxes (dashed), as a JPEG.

    Args:
        display: greys from 0 to 1 (rows, columns).
        heat_maps: of one class.
        found: the model's boxes of this class, in pixel edges.
        drawn: the radiologist's boxes, in pixel edges.
        side: the length of the picture's longer side, in pixels.
    """
    rows, columns = display.shape
    scale = side / max(rows, columns)
    wide, tall = max(round(columns * scale), 1), max(round(rows * scale), 1)
    grey = Image.fromarray(np.rint(display * 255).clip(0, 255).astype(np.uint8))
    way = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
    picture = np.stack([np.asarray(grey.resize((wide, tall), way), dtype=np.float32)] * 3, axis=2)
    for heat in heat_maps:
        _lay_over(picture, heat, wide / columns, tall / rows)
    shown = Image.fromarray(np.rint(picture).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(shown)
    across, down = wide / columns, tall / rows
    for box in drawn:
        _dashed(pen, (box.left * across, box.top * down, box.right * across, box.bottom * down))
    for one in found:
        edges = (one.left * across, one.top * down, max(one.right * across - 1, one.left * across + 1))
        pen.rectangle((*edges, max(one.bottom * down - 1, one.top * down + 1)), outline=MODEL_COLOUR, width=2)
    buffer = BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _lay_over(picture: NDArray[np.float32], heat: HeatMap, across: float, down: float) -> None:
    """Blend a heat map over a picture (rows, columns, 3; 0..255), in place."""
    import matplotlib as mpl  # noqa: PLC0415

    tall, wide = picture.shape[:2]
    y = ((np.arange(tall) + 0.5) / down - heat.top) / (heat.bottom - heat.top)
    x = ((np.arange(wide) + 0.5) / across - heat.left) / (heat.right - heat.left)
    inside = ((y >= 0) & (y <= 1))[:, np.newaxis] & ((x >= 0) & (x <= 1))
    values = _linear(_linear(heat.values, y).T, x).T
    share = np.interp(values, [_LOWEST, _FULL], [0.0, _OPAQUE]) * (values >= _LOWEST) * inside
    colours = np.asarray(mpl.colormaps["plasma"](values), dtype=np.float32)[..., :3] * 255
    picture += (colours - picture) * share[..., np.newaxis].astype(np.float32)


def _linear(values: NDArray[Any], at: NDArray[Any]) -> NDArray[np.float64]:
    """Rows at other places (0 the first one's upper edge, 1 the last one's lower), linear between their centres."""
    place = (at * len(values) - 0.5).clip(0, len(values) - 1)
    below = np.minimum(place.astype(np.int64), max(len(values) - 2, 0))
    above = np.minimum(below + 1, len(values) - 1)
    share = (place - below)[:, np.newaxis]
    return np.asarray(values[below] * (1 - share) + values[above] * share, dtype=np.float64)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], dash: float = 6.0) -> None:
    left, top, right, bottom = box
    for start in np.arange(left, right, 2 * dash):
        for y in (top, bottom):
            pen.line((start, y, min(start + dash, right), y), fill=READER_COLOUR, width=2)
    for start in np.arange(top, bottom, 2 * dash):
        for x in (left, right):
            pen.line((x, start, x, min(start + dash, bottom)), fill=READER_COLOUR, width=2)
