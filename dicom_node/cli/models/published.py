"""``dicom-node models import``: make a bundle from published weights (`ai.training.published`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dicom_node.cli.models.adding import install
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption, YesOption
from dicom_node.errors import ModelError

if TYPE_CHECKING:
    from ai.contract import Code
    from ai.training import published


def import_weights(
    network: Annotated[str, typer.Argument(help="The kind of network: densenet121.")],
    file: Annotated[Path, typer.Argument(help="Its weights: a state dict that torch.save wrote.")],
    *,
    classes: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Each output's name in order (- for none); nih14 or xrv18 for those lists."
        ),
    ],
    normalise: Annotated[
        str,
        typer.Option(
            help="How an image becomes the input: chexnet, torchxrayvision or none (docs/how-to/published-weights.md)."
        ),
    ],
    name: Annotated[str, typer.Option(help="The model's name; without it, that of the file.")] = "",
    channels: Annotated[int | None, typer.Option(help="1 or 3; checked against the weights.")] = None,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Pixels along each side of the input.")] = 224,
    thresholds: Annotated[
        str, typer.Option(metavar="N,N,...", help="Each class's operating point in order, or one for all.")
    ] = "0.5",
    codes: Annotated[
        Path | None, typer.Option(help="JSON: class -> {value, scheme, meaning}, for classes that have no code here.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the bundle into this folder, to look at it or change it.")
    ] = None,
    add_it: Annotated[bool, typer.Option("--add", help="Install it at once.")] = False,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make a bundle out of published weights of a DenseNet-121 that classifies chest radiographs."""
    import tempfile

    from ai.bundle.files import BundleError
    from ai.bundle.manifest import NAME
    from ai.training import published
    from ai.training.chest_codes import NIH14, XRV18, key_of

    if network != "densenet121":
        raise ModelError(
            f"{network!r}: densenet121 was expected; other networks come as a bundle (dicom-node models add)"
        )
    if (out is None) != add_it:
        raise ModelError("say where to: --out FOLDER to look at the bundle first, or --add to install it at once")
    if normalise not in ("chexnet", "torchxrayvision", "none"):
        raise ModelError(f"--normalise {normalise!r}: chexnet, torchxrayvision or none was expected")
    names = {"nih14": NIH14, "xrv18": XRV18}.get(classes.lower(), tuple(each.strip() for each in classes.split(",")))
    model = name or key_of(file.stem)
    if not re.fullmatch(NAME, model):
        raise ModelError(f"--name {model!r}: small letters, digits and _ were expected, a letter first, 64 at most")
    described = published.WeightsDescription(
        model,
        names,
        cast("published.Normalise", normalise),
        channels,
        _codes(codes),
        _thresholds(thresholds, len(names)),
        size,
    )
    try:
        if out is not None:
            published.import_densenet121(file, out, described)
            print(f"{out}: written; look at configs/reading.json in it, then: dicom-node models add {out}")
            return
        with tempfile.TemporaryDirectory() as folder:
            made = published.import_densenet121(file, Path(folder) / described.name, described)
            install(config, str(made), yes=yes, trust=True, origin=f"imported from {file.absolute()}")
    except BundleError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(f"{error.filename or out}: cannot be written: {error.strerror}") from error


def _thresholds(text: str, classes: int) -> list[float] | None:
    if text == "0.5":
        return None  # as nobody chose it
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        raise ModelError(f"--thresholds {text!r}: numbers with commas between them were expected") from None
    return values * classes if len(values) == 1 else values


def _codes(file: Path | None) -> dict[str, Code]:
    from ai.bundle.manifest import CodeSpec

    if file is None:
        return {}
    try:
        content = json.loads(file.read_bytes())
        return {str(name): CodeSpec.model_validate(code).code() for name, code in content.items()}
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file}: a JSON object of class -> {{value, scheme, meaning}} was expected") from error
