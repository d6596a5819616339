"""Writes the model card of ``chest_xray`` for hospitals. All its figures come from ``metadata.json``."""

from __future__ import annotations

from typing import Any

from ai.training.chest.cards.points import points_table, points_text, share, sharing
from ai.training.chest.cards.tables import listed, table
from ai.training.chest.data import REPORTED
from ai.training.chest.measure import JOINED, MIXED, REGION

_CARD = """\
# chest_xray

**{notice}. It must not be used for diagnosis, triage or any other decision about a patient.**

## What it is

A reader of frontal chest radiographs. For each image it gives a score for {count} findings. It was trained on
real radiographs of patients that were published for research, {images} images of {patients} patients in all:
little, compared with the hundred thousands behind products and published networks. It makes the node
demonstrable on real images and is a starting point for a hospital's own training; it is no medical device.

## What it must not be used for

- Diagnosis, triage, screening, or any other decision about a patient.
- Children and adolescents: {minors} of the training images are of people under 18, too few to say anything.
- Lateral, oblique or decubitus views, images of anything but a chest, photographs of films.
- Ruling anything out. A finding that is not in the list is not looked for; one that is in it is often missed (see the
  sensitivities below).
- Telling tuberculosis from other diseases: it has seen tuberculosis beside normals alone, from two hospitals.

## Input

Frontal chest radiographs (CR or DX, PA or AP) as on screen, bone white. The whole image goes on a square of
{side} x {side} pixels, its aspect is not kept (the training images are square copies), the 0.5th and 99.5th
percentile become 0 and 1.

## Output

For each finding a score from 0 to 1. It was fitted to as many images with the finding as without, all sources
together, but **it is no probability**: {calibrated}

{classes}

- **Airspace opacity** stands for pneumonia, consolidation or infiltration, which the networks cannot tell apart (see
  "AUC against others" below); the code is that of an opacity, the three are its differential. Its score is the
  greater of the two classes that the networks learnt (`pneumonia`: pneumonia or consolidation; `consolidation`).
- **Tuberculosis is looked for only on request** (`findings = ["tuberculosis"]` in a route): it was learnt beside
  normals alone, and is called on many films with other findings.
- **Any abnormality is looked for only on request**, too: it names nothing and has no place, and each call is an
  alarm. {sharing}
- Codes say what is seen, or that something is suspected: docs/reference/codes.md.

## Operating points

{points}

"Undetermined" classes are never called present or absent, and their scores are not shown.{undetermined}

{shown} {boxes}

## Data

| data | images | patients | positives of |
|---|---|---|---|
{sources}

All are downscaled 8-bit copies of published, de-identified images: NIH at 320, 256 or 64 pixels, the
tuberculosis sets at 96. None is part of this bundle. Labels of NIH were mined from reports by a program: its
authors give more than 90 % as right, independent readers found worse for several classes. They are not
confirmed diagnoses. Tuberculosis is the reading of the two NLM sets. A label that is not known was left out,
never taken for negative.

Terms of use, as stated by the issuers as far as known to us; have them checked before any other use than research:

- NIH ChestX-ray14: unrestricted use according to the NIH Clinical Center, which asks to be acknowledged as the
  provider and to be cited (Wang et al. 2017). We thank the NIH Clinical Center for the data.
- NLM Shenzhen and Montgomery County sets (National Library of Medicine; Shenzhen No.3 People's Hospital;
  Montgomery County Department of Health and Human Services): available to the research community. Treat a model
  that has learnt from them as for research and education.
- Opinions of a published DenseNet-121 on {taught} of the NIH images (J. Zech, reproduce-chexnet, MIT licence),
  used as a teacher.

## Training

    {command}

{members} residual networks (MONAI `ResNet`, basic blocks, {planes} channels, maps of one cell for 16 x 16 pixels)
trained from nothing, whose answers are averaged, and to which logistic regressions on small images and histograms
of gradients, averaged likewise, are added for some findings: weights of {size:.1f} MB in half precision. A
network's score of a finding is half the mean of its map of the finding and half the map's soft maximum (Pinheiro
and Collobert 2015), so that a few cells can carry it. Patients are dealt into 5 folds by a hash of their
identifier; there is a network for each of the folds {numbers}. It learnt from the other four folds, and **the fold
that it has not seen is the one that it is measured on**. Tasks beside the {count} findings: the fourteen labels of
NIH, the teacher's fourteen logits, view, sex and age. Stages: {stages}; AdamW, one cycle each, label smoothing,
mixup, the running mean of the weights. Images are turned, scaled, shifted, mirrored, cut, and changed in exposure,
contrast, sharpness, noise and resolution. The networks took {minutes} minutes together on {where}, each on one.

Sources look different, and which findings they hold differs too: the source alone would tell a finding (see the
control below). Therefore the odds of a finding in an image's source are added to the network's answer while it
learns (logit adjustment, Menon et al. 2021), so that it need not learn them, calibration weighs positives and
negatives alike within each source, and **figures compare images of the same source alone**.

## Measured on other patients

AUC of images with the finding against images without any finding, of the same source; 95 % intervals by bootstrap
over patients ({draws} draws; 300 in the tables of sources and groups). {measured_images} images of
{measured_patients} patients; images of 64 pixels are left out, which nobody would send. Every image was scored by
the one network of the {members}, and the one logistic regression, that have not seen its patient. What ships is the
mean of all {members}, which has seen all of these patients and so cannot be measured on them; the mean of networks
is usually a little better than one of them, so these figures should be on the safe side for other patients of the
same sources. For another hospital they promise nothing. The calibration was chosen on these same out-of-fold scores
(two numbers a class), so its error is slightly flattering, and the mean of networks may be a little less sure of
itself than its calibration says: then it calls fewer films, with and without findings, than the tables say. The
weights by which parts are joined (below), the recipe, and where training stopped were chosen on them too.

{measured}

"AUC against others" compares images that have the finding with images that have other findings but not this one:
**where it is near 0.5, the score tells sick from well and not which sickness**. The score of {mixed} is the sum of
what the networks learnt of the finding and of what they learnt of "any abnormality" ({mixed_share} times as much);
the logistic regression has a say in {joined}. All in units of the spread of the scores. "AUC" is of all together,
"networks" of the networks' own score of the finding, "linear" of the logistic regression alone, "teacher" is the
published DenseNet-121 on those of the images that its answers are known of (it learnt from 112,000 radiographs, which
may have held these).

On images that are stored at 64 pixels: {thumbnails}.

### By source

{by_source}

### By sex, age, view and resolution

Groups with fewer than five positives or normals have no figure. An interval that is wide says that little is
known, not that the group is read as well.

{by_group}

### Control: what the source tells

"Source alone" is the AUC, all sources mixed, of a guess by the source without looking at the image: what a
shortcut would earn. "Normals" is how well the score tells normal images of the source with most positives from
normal images of the others: 0.5 would be a score that does not go by the source at all.

{control}

## Limits

- Few images, one country's two hospitals for NIH labels and two sites for tuberculosis, all downscaled: what is
  small is lost.
- Ages, views and sources are unevenly spread; AP images are mostly of sick patients in bed.
- Tuberculosis at one site is read worse when learnt at the other: expect less at yours.
- Scores were not tested on images with foreign bodies, after surgery, or of poor exposure.
- Measure it on your own images before you show it to anybody.

## Cite

- Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8. IEEE CVPR 2017, 3462-3471.
- Majkowska A, Mittal S, Steiner DF, et al. Chest radiograph interpretation with deep learning models. Radiology
  2020;294:421-431.
- Jaeger S, Candemir S, Antani S, Wang YX, Lu PX, Thoma G. Two public chest X-ray datasets for computer-aided
  screening of pulmonary diseases. Quant Imaging Med Surg 2014;4(6):475-477.
- Jaeger S, Karargyris A, Candemir S, et al. Automatic tuberculosis screening using chest radiographs. IEEE TMI
  2014;33(2):233-245.
- Candemir S, Jaeger S, Palaniappan K, et al. Lung segmentation in chest radiographs using anatomical atlases
  with nonrigid registration. IEEE TMI 2014;33(2):577-590.
- Zech J. reproduce-chexnet. 2018.
- Ozturk T, Talo M, et al. Comput Biol Med 2020 (doi 10.1016/j.compbiomed.2020.103792), for the selection of one
  of the sources.
"""

_SHOWN = """\
**A place is shown for {placed} alone.** The heat map compares the odds of the finding at a place with those
where they are highest: a class activation map (Zhou et al. 2016) of the same forward pass, out of the mean of the
networks' maps of the finding, with that of "any abnormality" joined as in the score. It tells where, not how sure.
What the logistic regression adds has no place and is not in it. A class's map is shown where it was measured to point
at the finding more often than chance (95 %); of the others nobody knows whether it does: they have no place."""
_NOT_SHOWN = """\
**No place is shown.** Of no class was the activation map of this model measured to point at the finding more often
than chance, so heat maps and boxes might mislead: results name a finding without a region."""


def card(reading: dict[str, Any], metadata: dict[str, Any], size: float) -> str:
    """The card as Markdown. ``size`` is the size of the weights in MB (10^6 bytes)."""
    training, measured = metadata["training"], metadata["eval_metrics"]
    classes, recipe = measured["classes"], training["recipe"]
    outputs = {output["key"]: output for output in reading["outputs"]}
    silent = [f"\n- {one['name']}: {why}" for one in outputs.values() if (why := one.get("undetermined"))]
    points = measured["operating_points"]
    return _CARD.format(
        notice=reading["notice"],
        count=len(REPORTED),
        images=training["images"],
        patients=training["patients"],
        minors=training["under_18"],
        taught=training["taught"],
        side=metadata["network_data_format"]["inputs"]["image"]["spatial_shape"][0],
        calibrated=_calibrated(outputs, classes),
        classes=_classes(outputs),
        sharing=sharing(points),
        points=points_text(outputs, points),
        undetermined=" Here:" + "".join(silent) if silent else " At present there is none.",
        shown=_shown(outputs) if "cam" in reading else _NOT_SHOWN,
        boxes=_boxes(measured["boxes"]),
        sources=_sources(training["sources"]),
        command=training["command"],
        members=len(training["folds"]),
        numbers=", ".join(map(str, training["folds"])),
        measured_images=measured["images"],
        measured_patients=measured["patients"],
        planes=", ".join(map(str, recipe["planes"])),
        size=size,
        stages=", then ".join(f"{one['epochs']} epochs at {one['side']} pixels" for one in recipe["stages"]),
        minutes=round(training["seconds"] / 60),
        where=training["where"],
        draws=measured["draws"],
        mixed=listed(list(MIXED)),
        mixed_share=listed(sorted({f"{share:g}" for share in MIXED.values()})),
        joined=listed([f"{key} ({share:g} times as much)" for key, share in JOINED.items()]),
        measured=_measured(classes, measured),
        thumbnails=", ".join(f"{key} {_interval(one)}" for key, one in measured["thumbnails"].items())
        or "not measured",
        by_source=_by(classes, "by_source"),
        by_group=_by(classes, "by_group"),
        control=_control(classes),
    )


GROUPS = ("women", "men", "PA", "AP", "aged 18 to 39", "aged 40 to 64", "aged 65 and over")


def summary(reading: dict[str, Any], measured: dict[str, Any]) -> str:
    """The figures of ``eval_metrics`` as three Markdown tables, for docs/reference/chest-xray.md."""
    classes, points = measured["classes"], measured["operating_points"]
    silent = {output["key"] for output in reading["outputs"] if output.get("undetermined")}
    head = ["finding", "positives", "AUC", "against other findings", *(f"sensitivity, {name}" for name in points)]
    rows = [
        [
            key,
            str(one["positives"]),
            _interval(one),
            _interval(one["against_other_findings"]),
            *(
                "never called" if key in silent else share(point["figures"].get(key, {}).get("sensitivity"))
                for point in points.values()
            ),
        ]
        for key, one in classes.items()
        if key in REPORTED
    ]
    groups = [
        [key, *(_interval(one["by_group"].get(name)) for name in GROUPS)]
        for key, one in classes.items()
        if key in REPORTED
    ]
    return f"{points_table(points)}\n\n{table(head, rows)}\n\n{table(['AUC', *GROUPS], groups)}\n"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(one: dict[str, Any] | None) -> str:
    return "-" if one is None else f"{one['auc']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _classes(outputs: dict[str, Any]) -> str:
    rows = [
        [
            f"{one['name']} (`{key}`)",
            f"{one['code']['meaning']} ({one['code']['value']}, {one['code']['scheme']})",
            "never called" if one.get("undetermined") else "by default" if one.get("default", True) else "on request",
        ]
        for key, one in outputs.items()
    ]
    return table(["finding", "code", "is looked for"], rows)


def _calibrated(outputs: dict[str, Any], classes: dict[str, Any]) -> str:
    sure = [one["name"].lower() for one in outputs.values() if one.get("calibrated")]
    errors = [classes[key]["calibration_error_of_a_source"] for key in outputs if key in classes]
    worst = max((error for one in errors for error in one.values() if error is not None), default=None)
    told = "not measured" if worst is None else f"off by up to {worst:.2f} in the mean"
    if not sure:
        return (
            f"within single sources it is {told}, so at another hospital it may be as wrong, and no class is marked "
            "as calibrated. A score of 0.7 is above one of 0.6, and that is all that it says."
        )
    return f"within single sources it is {told}, but for {listed(sure)}."


def _shown(outputs: dict[str, Any]) -> str:
    return _SHOWN.format(
        placed=" and ".join(one["name"].lower() for one in outputs.values() if one.get("located", True))
    )


def _boxes(classes: dict[str, Any]) -> str:
    if not classes:
        return ""
    said = [
        f"{key} {one['hits']} of {one['findings']} (a point drawn at random would for {one['chance']:.1f})"
        for key, one in classes.items()
    ]
    return (
        "Where radiologists' boxes are known, the centre of the region where the odds are at least "
        f"{REGION:g} of the highest lay in a box of the same finding for: {', '.join(said)}. What counts as the "
        "region was chosen on these same boxes. It outlines nothing."
    )


def _sources(sources: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| {one['name']} | {one['images']} | {one['patients']} | "
        + ", ".join(f"{key} {count}" for key, count in one["positives"].items() if count)
        + " |"
        for one in sources
    )


def _measured(classes: dict[str, Any], measured: dict[str, Any]) -> str:
    rows = [
        [
            key,
            str(one["positives"]),
            str(one["normals"]),
            _interval(one),
            _interval(measured["network"].get(key)),
            _interval(measured["linear"].get(key)),
            _interval(measured["teacher"].get(key)),
            _interval(one["against_other_findings"]),
            f"{one['calibration_error']:.3f}",
        ]
        for key, one in classes.items()
    ]
    head = ["finding", "positives", "normals", "AUC", "networks", "linear", "teacher"]
    return table([*head, "AUC against others", "calibration error"], rows)


def _by(classes: dict[str, Any], what: str) -> str:
    rows = [
        [key, name, str(one["positives"]), str(one["normals"]), _interval(one)]
        for key, figures in classes.items()
        for name, one in figures[what].items()
    ]
    return table(["finding", "source" if what == "by_source" else "group", "positives", "normals", "AUC"], rows)


def _control(classes: dict[str, Any]) -> str:
    rows = [
        [key, _two(one["control"]["source_alone"]), _two(one["control"]["normals_of_it"])]
        for key, one in classes.items()
    ]
    return table(["finding", "source alone", "normals"], rows)
