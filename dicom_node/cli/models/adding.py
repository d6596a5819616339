"""``dicom-node models add``: install a model (`models.install`); what it prints before and after, and the question."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, RESTART, ConfigOption, YesOption
from dicom_node.errors import ModelError

if TYPE_CHECKING:
    from dicom_node.config.settings import Settings
    from dicom_node.models.install import Added, Candidate


def add(
    source: Annotated[str, typer.Argument(help="The bundle: a directory, a zip file, or the https address of one.")],
    *,
    reading: Annotated[
        Path | None, typer.Option(help="The reading.json for a bundle that has none, or in place of its own.")
    ] = None,
    sha256: Annotated[str, typer.Option(metavar="HEX", help="What the SHA-256 of the zip file must be.")] = "",
    replace_shipped: Annotated[
        bool, typer.Option("--replace-shipped", help="Let it take the name of a model that ships with the node.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let it run more than MONAI's own parts: what it runs is shown before.")
    ] = False,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Install a MONAI bundle: check it, show what it runs, ask, try it, keep it. A node may run meanwhile."""
    from dicom_node.models.sources import is_address

    if sha256 and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise ModelError(f"--sha256 {sha256!r}: 64 hexadecimal digits were expected")
    if is_address(source) and not sha256 and not yes:
        raise ModelError(
            "a download needs --sha256 HEX, the SHA-256 that its author names, so that it is the file that was meant; "
            "--yes installs whatever comes"
        )
    install(config, source, yes=yes, reading=reading, sha256=sha256, replace_shipped=replace_shipped, trust=trust)


def install(config: Path, source: str, *, yes: bool, **wishes: Any) -> None:
    """Add a model and print the result; ``wishes`` are arguments of `dicom_node.models.install.add`."""
    from dicom_node import log
    from dicom_node.config.load import load
    from dicom_node.models import install as installation
    from dicom_node.models.registry import Models

    log.silence_libraries()
    settings = load(config)
    store = Models(settings.node.data_dir)

    def confirm(candidate: Candidate) -> bool:
        _print_candidate(candidate)
        if candidate.code and not wishes.get("trust"):
            raise ModelError("it runs more than MONAI's own parts (above): if its author is trusted, say --trust")
        if yes:
            return True
        if not terminal.can_ask():
            raise ModelError("nobody can be asked here: if what it runs (above) is trusted, say --yes")
        return typer.confirm("Install it?", default=False)

    with _ends_cleanly(), terminal.download_progress() as progress:
        added = installation.add(store, source, confirm=confirm, progress=progress, **wishes)
    _print_added(settings, added)


@contextmanager
def _ends_cleanly() -> Iterator[None]:
    """End on SIGTERM and on a lost connection as on Ctrl-C, so that no half-installed model is left behind."""
    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]  # not nohup's
    for each in ends:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in ends:
            signal.signal(each, signal.SIG_DFL)


def _print_candidate(candidate: Candidate) -> None:
    from ai.bundle.code import printable

    info, mib = candidate.info, candidate.bytes / 1024**2
    identity = info.identity
    origin = f"{identity.name} {identity.version} by {identity.manufacturer}"
    print(printable(f"{origin}, {candidate.files} files, {mib:.1f} MiB"))
    print(printable(f"intended use: {identity.intended_use}"))
    for name in candidate.source.left_out[:20]:
        print(f"left out: {printable(name)}")
    print(
        "\nA model is a program: its configuration can run any Python, in the cage that dicom-node check tells of.\n"
        "Install only what comes from somebody whom you trust as you trust the author of any other program."
    )
    if candidate.code:
        print("Beside MONAI's own parts, this one runs:")
    else:
        print("This one's configuration names MONAI's own parts only.")
    for line in candidate.code:
        print(f"  {line if len(line) <= 400 else f'{line[:400]} ... and {len(line) - 400} characters more'}")
    print(flush=True)


def _print_added(settings: Settings, added: Added) -> None:
    from dicom_node.models.registry import routes_of

    entry = added.entry
    what = f"model {entry.name} {entry.version}, files {entry.digest[:12]}"
    if not added.new:
        again = added.was is not None and added.was.digest != entry.digest
        print(f"{what}: is installed already{', and is the current version again' if again else '; nothing to do'}")
        if again:
            print(RESTART)
        return
    print(f"{what}: installed in {entry.path.parent}")
    if added.was is not None and added.was.digest == entry.digest:
        print("its files were not as they had been checked, and are so again")
    elif added.was is not None:
        back = "remove" if added.was.shipped else "rollback"
        print(f"it takes the place of {added.was.version}, {added.was.digest[:12]}")
        print(f"to go back: dicom-node models {back} {entry.name}")
    routes = routes_of(settings, entry.name)
    if routes:
        print(f"routes that read with it: {', '.join(routes)}. {RESTART}")
    else:
        print(f'no route names it yet: put models = ["{entry.name}"] into a route, then dicom-node check, then restart')
