"""Selects the instances of a study that a model reads, by their headers, with reasons for passing over the others."""

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
    """Choose the instances that ``spec`` takes: images in reading order, or the stack of slices that suits best."""
    return select_volume(spec, series) if spec.kind == "volume" else _select_images(spec, series)


def _select_images(spec: InputSpec, series: Sequence[SeriesRef]) -> Selection:
    """Choose images, sorted by series number and instance number.

    A series of the wrong modality or body part is one entry of ``passed_over``, and none of its files is opened.
    Otherwise each instance is judged by its own header. A file whose header cannot be read is chosen, because it may be
    the requested image: reading it fails visibly, while passing it over would hide that the study was partly read.
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
    """The place of an instance in the reading order, and why it is passed over, empty if it is chosen."""
    last = (inf, series.series_instance_uid, inf, instance.sop_instance_uid)
    if instance.sop_class_uid.startswith(NO_IMAGES):
        return last, NO_IMAGE
    try:
        header = read_header(instance.content)
    except ReadingError:
        return last, ""
    order = (
        inf if header.series_number is None else header.series_number,
        series.series_instance_uid,
        inf if header.instance_number is None else header.instance_number,
        instance.sop_instance_uid,
    )
    return order, of_header(spec, series, header)
