"""The model card of ``chest_xray``: text for a hospital, with every figure out of ``metadata.json``."""

from __future__ import annotations

from typing import Any

from ai.chest_training.data import KEYS

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

For each finding a probability, calibrated **to as many images with the finding as without**: score / (1 - score) is a
likelihood ratio. Where a finding is rare its true probability is far lower than the score.

{operating}

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

{members} residual networks (MONAI `ResNet`, basic blocks, {planes} channels) trained from nothing and averaged
into one: weights of {size:.1f} MB in half precision. Patients are dealt into 5 folds by a hash of their
identifier; there is a network for each of the folds {numbers}. It learnt from the other four folds, and **the
fold that it has not seen is the one that it is measured on**. Tasks beside the {count} findings: the fourteen
labels of NIH, the teacher's fourteen logits, view, sex and age. Stages: {stages}; AdamW, one cycle each, label
smoothing, mixup, the running mean of the weights. Images are turned, scaled, shifted, mirrored, cut, and
changed in exposure, contrast, sharpness, noise and resolution. It took {minutes} minutes on {where}.{note}

Sources look different, and which findings they hold differs too: the source alone would tell a finding (see the
control below). Therefore the odds of a finding in an image's source are added to the network's answer while it
learns (logit adjustment, Menon et al. 2021), so that it need not learn them, calibration weighs positives and
negatives alike within each source, and **figures compare images of the same source alone**.

## Measured on other patients

AUC of images with the finding against images without any finding, of the same source; 95 % intervals by
bootstrap over patients ({draws} draws; 300 in the tables of sources and groups). {measured_images} images of
{measured_patients} patients; images of 64 pixels are left out, which nobody would send. Every image was scored
by the one network of the {members} that has not seen its patient. What ships is the mean of all {members},
which has seen all of these patients and so cannot be measured on them; the mean of networks is usually a little
better than one of them, so these figures should be on the safe side for other patients of the same sources. For
another hospital they promise nothing. Thresholds and calibration were chosen on these same out-of-fold scores
(two numbers and one threshold a class), so sensitivity, specificity and calibration error are slightly
flattering, and the mean of networks may be a little less sure of itself than its calibration says.

{measured}

"Specificity" is among images without any finding, "among others" among those with other findings only. "AUC
against others" compares images that have the finding with images that have other findings but not this one:
**where it is near 0.5, the score tells sick from well and not which sickness**. The score of nodule or mass,
pneumonia, effusion, cardiomegaly and consolidation is the sum of what the networks learnt of the finding and,
weighing 0.6 times as much, of what they learnt of "any abnormality"; that weight, and where training stopped,
were chosen on these same scores. Thresholds make sensitivity + specificity greatest (Youden 1950) among those
that leave a sensitivity of 0.7. "Linear" is a logistic regression on small images and histograms of gradients,
with the same folds.

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


_SHOWN = "The heat map is the class activation map (Zhou et al. 2016) of the same forward pass."
_NOT_SHOWN = """\
**No place is shown.** The class activation map (Zhou et al. 2016) of this model points at findings hardly more often
than chance, so heat maps and boxes would mislead: results name a finding without a region."""


def card(reading: dict[str, Any], metadata: dict[str, Any], size: float) -> str:
    """The card as Markdown; ``size`` is that of the weights in MB (10^6 bytes)."""
    training, measured = metadata["training"], metadata["eval_metrics"]
    classes, recipe = measured["classes"], training["recipe"]
    outputs = {output["key"]: output for output in reading["outputs"]}
    silent = [f"\n- {outputs[key]['name']}: {why}" for key in KEYS if (why := outputs[key].get("undetermined"))]
    return _CARD.format(
        notice=reading["notice"],
        count=len(KEYS),
        images=training["images"],
        patients=training["patients"],
        minors=training["under_18"],
        taught=training["taught"],
        side=metadata["network_data_format"]["inputs"]["image"]["spatial_shape"][0],
        operating=_operating(outputs, classes),
        undetermined=" Here:" + "".join(silent) if silent else " At present there is none.",
        shown=_SHOWN if "cam" in reading else _NOT_SHOWN,
        boxes=_boxes(measured.get("boxes")),
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
        note=training.get("note", ""),
        draws=measured["draws"],
        measured=_measured(classes, measured["linear"]),
        thumbnails=", ".join(f"{key} {_interval(one)}" for key, one in measured["thumbnails"].items())
        or "not measured",
        by_source=_by(classes, "by_source"),
        by_group=_by(classes, "by_group"),
        control=_control(classes),
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(one: dict[str, Any] | None) -> str:
    return "-" if one is None else f"{one['auc']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _operating(outputs: dict[str, Any], classes: dict[str, Any]) -> str:
    rows = []
    for key in KEYS:
        one = classes.get(key, {})
        state = "undetermined" if outputs[key].get("undetermined") else "present or absent"
        threshold = f"{outputs[key]['threshold']:.2f}"
        rows.append(
            [
                f"{outputs[key]['name']} (`{key}`)",
                state,
                threshold,
                _two(one.get("sensitivity")),
                _two(one.get("specificity")),
            ]
        )
    return _table(["finding", "is called", "threshold", "sensitivity", "specificity"], rows)


def _boxes(one: dict[str, Any] | None) -> str:
    if not one or not one["images"]:
        return ""
    return (
        f"On the {one['images']} images that a radiologist's boxes are known of, the centre of the region above half "
        f"of the map's maximum lay in a box of the same finding for {one['hits']} of {one['findings']} findings (a "
        f"point drawn at random on the image would for {one['chance']:.1f}). It outlines nothing."
    )


def _sources(sources: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| {one['name']} | {one['images']} | {one['patients']} | "
        + ", ".join(f"{key} {count}" for key, count in one["positives"].items() if count)
        + " |"
        for one in sources
    )


def _measured(classes: dict[str, Any], linear: dict[str, Any]) -> str:
    rows = [
        [
            key,
            str(one["positives"]),
            str(one["normals"]),
            _interval(one),
            _interval(linear.get(key)),
            _two(one["sensitivity"]),
            _two(one["specificity"]),
            _two(one["specificity_among_other_findings"]),
            _interval(one["against_other_findings"]),
            f"{one['calibration_error']:.3f}",
        ]
        for key, one in classes.items()
    ]
    return _table(
        [
            "finding",
            "positives",
            "normals",
            "AUC",
            "linear AUC",
            "sensitivity",
            "specificity",
            "among others",
            "AUC against others",
            "calibration error",
        ],
        rows,
    )


def _by(classes: dict[str, Any], what: str) -> str:
    rows = [
        [key, name, str(one["positives"]), str(one["normals"]), _interval(one)]
        for key, figures in classes.items()
        for name, one in figures[what].items()
    ]
    return _table(["finding", "source" if what == "by_source" else "group", "positives", "normals", "AUC"], rows)


def _control(classes: dict[str, Any]) -> str:
    rows = [
        [key, _two(one["control"]["source_alone"]), _two(one["control"]["normals_of_it"])]
        for key, one in classes.items()
    ]
    return _table(["finding", "source alone", "normals"], rows)
