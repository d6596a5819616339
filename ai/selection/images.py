"""Which instances of a study a model reads, by headers alone, and why it passes over the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from ai.bundle.manifest import InputSpec
from ai.contract import InstanceRef, PassedOver, ReadingError, Selection, SeriesRef
from ai.images.radiograph import read_header
from ai.selection.rules import NO_IMAGE, NO_IMAGES, TWICE, of_header, of_series
from ai.selection.volumes import select_volume

_Order = tuple[float, str, float, str]


def select(spec: InputSpec, series: Sequence[SeriesRef]) -> Selection:
    """Choose what ``spec`` takes: images in reading order, or the one stack of slices that suits best."""
    return select_volume(spec, series) if spec.kind == "volume" else _select_images(spec, series)


def _select_images(spec: InputSpec, series: Sequence[SeriesRef]) -> Selection:
    """Images by series number, then instance number.

    A series of the wrong modality or body part is one entry of ``passed_over`` and no file of it is opened; else each
    instance is judged by its own header. A file whose header cannot be read is chosen: it may be the very image that
    was asked for, and reading it then fails visibly, while passing it over would leave a study half read.
    """
    passed: list[PassedOver] = []
    eligible: list[tuple[_Order, InstanceRef]] = []
    seen: set[str] = set()
    for one in series:
        if reason := of_series(spec, one):
            passed.append(PassedOver(one.series_instance_uid, reason))
            continue
        for instance in one.instances:
            order, reason = _judge(spec, one, instance)
            if instance.sop_instance_uid in seen:
                reason = TWICE
            seen.add(instance.sop_instance_uid)
            if reason:
                passed.append(PassedOver(instance.sop_instance_uid, reason))
            else:
                eligible.append((order, instance))
    eligible.sort(key=lambda entry: entry[0])
    chosen = tuple(instance for _, instance in eligible)
    surplus = f"the model reads at most {spec.max_images} image{'s' if spec.max_images > 1 else ''} of a study"
    left = tuple(PassedOver(instance.sop_instance_uid, surplus) for instance in chosen[spec.max_images :])
    return Selection(chosen[: spec.max_images], tuple(passed), left)


def _judge(spec: InputSpec, series: SeriesRef, instance: InstanceRef) -> tuple[_Order, str]:
    """Where the instance stands in the reading order, and why it is passed over (empty: it is not)."""
    last = (inf, series.series_instance_uid, inf, instance.sop_instance_uid)
    if instance.sop_class_uid.startswith(NO_IMAGES):
        return last, NO_IMAGE
    try:
        header = read_header(instance.path)
    except ReadingError:
        return last, ""
    order = (
        inf if header.series_number is None else header.series_number,
        series.series_instance_uid,
        inf if header.instance_number is None else header.instance_number,
        instance.sop_instance_uid,
    )
    return order, of_header(spec, series, header)
