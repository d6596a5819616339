"""``dicom-node demo``: the whole way of a study on one machine, over real DICOM connections.

The demo starts a node and a PACS on free loopback ports. The PACS is a second node without routes, which makes it an
archive. The demo pushes phantom studies (or your own files) to both, as a modality would. The node reads them and sends
its results to the PACS. The demo takes the results out of the PACS and shows them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, get_args

import pydicom
from PIL import Image
from pydantic import ValidationError
from pydicom.uid import generate_uid
from pynetdicom.dsutils import split_dataset
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node import log
from dicom_node.config.settings import Peer, Settings
from dicom_node.config.values import Output
from dicom_node.dicom.files import dicom_files
from dicom_node.errors import NodeError
from dicom_node.index.rows import StudyRow
from dicom_node.network.storage_scu import Pushed, push
from dicom_node.node import Node
from dicom_node.operations import study_status
from dicom_node.results.objects.report_text import report_text

_MODALITY = "DEMO_MOD"
_QUIET_SECONDS = 1.0
_ENDED = {"delivered", "no route", "no eligible series", "failed"}
_PACS = re.compile(r"(?P<ae>[ -~]{1,16})@(?P<host>[^@\s/]+):(?P<port>\d{1,5})")
_PHANTOMS = ((20260, ("nodule", "pneumothorax")), (20261, ()))


@dataclass(slots=True)
class _Study:
    """A pushed study; ``answered`` is the time of its last C-STORE response (epoch seconds)."""

    uid: str
    title: str
    files: list[Path] = field(default_factory=list)
    answered: float = 0.0
    refused: int = 0


class Demo:
    """One run of the demo."""

    def __init__(
        self, out: Path, *, pacs: str | None = None, dicom: Sequence[Path] = (), timeout: float = 180.0
    ) -> None:
        """Check the arguments.

        Raises:
            NodeError: ``pacs`` is not of the form AET@HOST:PORT.
        """
        self._out = out
        self._timeout = timeout
        self._dicom = list(dicom)
        self._external: Peer | None = None
        self._console = Console(highlight=False)
        if pacs is not None:
            found = _PACS.fullmatch(pacs)
            if found is None:
                raise NodeError(f"--pacs {pacs!r}: expected AET@HOST:PORT, for example PACS@127.0.0.1:4242")
            try:
                self._external = _peer("pacs", found["ae"], found["host"], int(found["port"]))
                _node_settings(Path(), self._external)
            except ValidationError as error:
                told = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
                raise NodeError(f"--pacs {pacs!r}: {told}") from error

    def run(self) -> bool:
        """Run the demo.

        Returns:
            whether every result came back.

        Raises:
            NodeError: something that the demo needs is missing; the message says what.
        """
        with ExitStack() as stack:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicom-node-demo-")))
            log_file = stack.enter_context((state / "log.jsonl").open("w", encoding="utf-8"))
            log.configure(log_file)
            try:
                return self._run(stack, state)
            except BaseException:
                _keep(log_file, state, self._out)
                raise

    def _run(self, stack: ExitStack, state: Path) -> bool:
        pacs_node: Node | None = None
        if self._external is None:
            pacs_node = Node(_archive_settings(state / "pacs"))
            pacs_node.start()
            stack.callback(pacs_node.stop)
            pacs = _peer("pacs", "DEMO_PACS", "127.0.0.1", pacs_node.port)
        else:
            pacs = self._external
        node = Node(_node_settings(state / "node", pacs))
        node.start()
        stack.callback(node.stop)
        here = _peer("node", node.settings.node.ae_title, "127.0.0.1", node.port)
        self._say(f"node  [bold]{here.ae_title}[/bold] listens on 127.0.0.1:{here.port}")
        self._say(
            f"PACS  [bold]{pacs.ae_title}[/bold] at {pacs.host}:{pacs.port}{'' if pacs_node is None else ' (embedded)'}"
        )
        with _progress(self._console) as progress:
            studies = self._prepare(state, progress)
            self._warm(node, progress)
            self._push(studies, here, pacs, progress)
            self._wait(node, studies, progress)
        return self._report(studies, node, pacs, pacs_node)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _prepare(self, state: Path, progress: Progress) -> list[_Study]:
        """The studies to push: the files that were named, or phantoms drawn now."""
        if self._dicom:
            found: dict[str, _Study] = {}
            for file in dicom_files(self._dicom):
                uid = _study_uid(file)
                if uid:
                    study = found.setdefault(uid, _Study(uid, f"your study {len(found) + 1}"))
                    study.files.append(file)
            if not found:
                raise NodeError("--dicom: there is no DICOM image among these files")
            return list(found.values())
        from ai.phantom import dicom as phantom_dicom  # noqa: PLC0415 - not needed for one's own files
        from ai.phantom import draw  # noqa: PLC0415 - not needed for one's own files

        task = progress.add_task("drawing phantom radiographs", total=len(_PHANTOMS))
        studies = []
        for number, (seed, findings) in enumerate(_PHANTOMS, start=1):
            uid = generate_uid(prefix=None)  # new each time: a PACS would take the same UID for the same study
            drawn = draw.draw_phantom(seed, findings=findings, view="PA")
            made = phantom_dicom.to_dicom(
                drawn,
                seed=seed,
                now=datetime.now().astimezone(),
                study_uid=uid,
                series_uid=generate_uid(prefix=None),
                sop_uid=generate_uid(prefix=None),
            )
            file = state / f"phantom-{number}.dcm"
            made.save_as(file, enforce_file_format=True)
            title = f"phantom with {' and '.join(findings)}" if findings else "phantom without findings"
            studies.append(_Study(uid, title, [file]))
            progress.advance(task)
        return studies

    def _warm(self, node: Node, progress: Progress) -> None:
        task = progress.add_task("loading the model", total=1)
        end = time.monotonic() + self._timeout
        while not node.warm:
            if time.monotonic() > end:
                raise NodeError("the model did not load in time; dicom-node check says more")
            time.sleep(0.05)
        progress.advance(task)

    def _push(self, studies: list[_Study], here: Peer, pacs: Peer, progress: Progress) -> None:
        count = sum(len(study.files) for study in studies)
        for target, to in ((pacs, "PACS"), (here, "node")):
            task = progress.add_task(f"pushing {count} image{'s' * (count != 1)} to the {to}", total=count)
            for study in studies:
                study.refused = 0

                def on_answer(pushed: Pushed, study: _Study = study, task: Any = task) -> None:
                    study.refused += pushed.status != 0x0000
                    progress.advance(task)

                answers = push(study.files, target, calling_ae=_MODALITY, on_answer=on_answer)
                study.answered = answers[-1].answered

    def _wait(self, node: Node, studies: list[_Study], progress: Progress) -> None:
        tasks = {study.uid: progress.add_task(f"{study.title}: received", total=3) for study in studies}
        steps = {"receiving": 0, "reading": 1, "delivering": 2}
        end = time.monotonic() + self._timeout
        while time.monotonic() < end:
            states = {row.study: row.state for row in _rows(node)}
            for study in studies:
                current = states.get(study.uid, "not received")
                progress.update(
                    tasks[study.uid], description=f"{study.title}: {current}", completed=steps.get(current, 3)
                )
            if all(states.get(study.uid, "failed") in _ENDED for study in studies):
                return
            time.sleep(0.05)

    def _report(self, studies: list[_Study], node: Node, pacs: Peer, pacs_node: Node | None) -> bool:
        self._out.mkdir(parents=True, exist_ok=True)
        told = [self._one(number, study, node, pacs_node) for number, study in enumerate(studies, start=1)]
        good = all(one["came_back"] for one in told)
        summary = {"pacs": f"{pacs.ae_title}@{pacs.host}:{pacs.port}", "everything_came_back": good, "studies": told}
        (self._out / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")
        verdict = "[green]everything came back[/green]" if good else "[red]not everything came back[/red]"
        self._say(f"\n{verdict}; pictures, reports and DICOM files are in {escape(str(self._out))}")
        return good

    def _one(self, number: int, study: _Study, node: Node, pacs_node: Node | None) -> dict[str, Any]:
        """Show one study, write its files, and say what came back."""
        if node.index is None:
            raise NodeError("the node has stopped")
        found = study_status.detail(node.index, study.uid) or {"state": "not received", "reason": "", "readings": []}
        folder = self._out / f"study-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        objects, stored = self._objects(found, folder, node, pacs_node)
        expected = [result for reading in found["readings"] for result in reading["results"]]
        came_back = found["state"] == "delivered" and bool(expected) and len(objects) == len(expected)
        seconds = round(max(stored) - study.answered, 3) if came_back and stored else None
        why = f": {escape(found['reason'])}" if found["reason"] else ""
        self._say(f"\n[bold]{escape(study.title)}[/bold]: {found['state']}{why}")
        for reading in found["readings"]:
            self._say(f"  model {reading['model']} {reading['version']} ({escape(reading['notice'])})")
            for one in reading["findings"]:
                box = one["region"]
                self._say(
                    f"  [yellow]{escape(one['name'])}[/yellow] {study_status.finding_score_text(reading, one)} "
                    f"{(one['laterality'] or '').lower()}, "
                    f"columns {box['left']:.0f} to {box['right']:.0f}, rows {box['top']:.0f} to {box['bottom']:.0f}"
                )
            if not reading["findings"]:
                self._say("  no findings")
            if others := ", ".join(each["name"] for each in reading["not_looked_for"]):
                self._say(f"  not looked for: {escape(others)}")
        for one in objects:
            self._say(f"  came back: {one['file']}")
        if seconds is not None:
            self._say(
                f"  [bold]{seconds:.1f} s[/bold] from the last image to the last object in the PACS "
                f"({_QUIET_SECONDS:g} s of it waiting whether more images come)"
            )
        return {
            "title": study.title,
            "study": study.uid,
            "state": found["state"],
            "reason": found["reason"],
            "refused_images": study.refused,
            "came_back": came_back,
            "seconds_to_last_object": seconds,
            "quiet_seconds": _QUIET_SECONDS,
            "objects": objects,
            "detail": found,
        }

    def _objects(
        self, found: dict[str, Any], folder: Path, node: Node, pacs_node: Node | None
    ) -> tuple[list[dict[str, Any]], list[float]]:
        """Write each result that an embedded PACS has in its storage, or that another PACS has confirmed."""
        objects: list[dict[str, Any]] = []
        stored: list[float] = []
        sent = {one["instance"]: one for one in found.get("deliveries", []) if one["state"] == "done"}
        for reading in found["readings"]:
            for number, result in enumerate(reading["results"], start=1):
                uid = result["instance"]
                if uid not in sent:
                    continue
                made = node.result_file(uid)
                if pacs_node is None:
                    stored.append(datetime.fromisoformat(sent[uid]["finished"]).timestamp())
                    file = made
                else:
                    kept = pacs_node.received(uid)
                    if kept is None or made is None or not _same_data_set(kept[0], made):
                        continue
                    file = kept[0]
                    stored.append(kept[1])
                if file is None:
                    continue
                objects.append(
                    {"role": result["role"], "instance": uid, **_write(file, folder, number, result["role"])}
                )
        return objects, stored


def _write(file: Path, folder: Path, number: int, role: str) -> dict[str, str]:
    """Copy a result, and write its picture or text next to it."""
    stem = folder / f"{number}-{role}"
    shutil.copyfile(file, stem.with_suffix(".dcm"))
    written = {"file": str(stem.with_suffix(".dcm"))}
    dataset = pydicom.dcmread(file)
    if role in ("sr", "kos"):
        stem.with_suffix(".txt").write_text(report_text(dataset), encoding="utf-8")
        written["text"] = str(stem.with_suffix(".txt"))
    elif role == "sc":
        Image.fromarray(dataset.pixel_array).save(stem.with_suffix(".png"))
        written["picture"] = str(stem.with_suffix(".png"))
    elif role == "pdf":
        page = dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]
        stem.with_suffix(".pdf").write_bytes(page)
        written["page"] = str(stem.with_suffix(".pdf"))
    return written


def _same_data_set(one: Path, other: Path) -> bool:
    """Whether two files hold the same encoded data set, whatever their meta information says of who wrote them."""
    return _data_set(one) == _data_set(other)


def _data_set(path: Path) -> bytes:
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _rows(node: Node) -> list[StudyRow]:
    return node.index.studies_with_state() if node.index is not None else []


def _study_uid(file: Path) -> str:
    tag = "StudyInstanceUID"
    return str(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[tag]).get(tag, ""))


def _keep(log_file: TextIO, state: Path, out: Path) -> None:
    """Keep the node's log next to the results if the demo failed."""
    log_file.flush()
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(state / "log.jsonl", out / "log.jsonl")


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not sys.stdout.isatty())


def _peer(name: str, ae_title: str, host: str, port: int) -> Peer:
    """An AE to push to; results may be sent there."""
    return Peer(name=name, ae_title=ae_title, host=host, port=port, destination=True)


def _archive_settings(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "node": {"ae_title": "DEMO_PACS", "port": 0, "data_dir": folder},
            "peers": [
                {"name": "node", "ae_title": "AINODE", "host": "127.0.0.1", "may_store": True},
                {"name": "modality", "ae_title": _MODALITY, "host": "127.0.0.1", "may_store": True},
            ],
        }
    )


def _node_settings(folder: Path, pacs: Peer) -> Settings:
    return Settings.model_validate(
        {
            "node": {"ae_title": "AINODE", "port": 0, "data_dir": folder, "quiet_seconds": _QUIET_SECONDS},
            "peers": [{"name": "modality", "ae_title": _MODALITY, "host": "127.0.0.1", "may_store": True}, pacs],
            "routes": [{"name": "demo", "models": ["phantom_cxr"], "outputs": get_args(Output), "to": ["pacs"]}],
        }
    )
