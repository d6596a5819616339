"""Other people's programs judge our objects: which of them judges what, and what of their verdict is a fault.

A message is a fault unless it is *allowed*, for a reason that stands beside it, or *inherited*: the same message about
the same attribute of the source, whose bytes we have to repeat (identity, dates and UIDs of patient, study and image).
Warnings are no faults; they are counted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from tests.support.waiting import scaled

SR_ROOT, KOS = "1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.88.59"
GSPS_ROOT, PDF = "1.2.840.10008.5.1.4.1.1.11.", "1.2.840.10008.5.1.4.1.1.104.1"
_PIXELMED = Path("/usr/share/java/pixelmed.jar")


@dataclass(frozen=True, slots=True)
class Allowed:
    """A message that a right object draws, and why it is no fault of the object."""

    tool: str
    pattern: str
    reason: str
    holds: Callable[[re.Match[str]], bool] = lambda _: True
    """What must be so beyond the pattern: that the value is indeed right."""

    def covers(self, tool: str, message: str) -> bool:
        """Whether this is the message."""
        found = re.fullmatch(self.pattern, message, re.DOTALL)
        return self.tool == tool and found is not None and self.holds(found)


def _beyond_ascii(found: re.Match[str]) -> bool:
    """A text with letters beyond ASCII (or the escapes before them, PS3.5 6.1.2.5.3) and nothing else that is odd."""
    vr, value = found["vr"], found["value"]
    plain = "".join(c for c in value if " " <= c <= "~")
    odd = [c for c in value if c < " " and c != "\x1b" and not (vr in ("ST", "LT", "UT") and c in "\r\n\t\f")]
    names = [part.count("^") for part in value.split("=")] if vr == "PN" else []
    return len(plain) < len(value) and not odd and "\x7f" not in value and len(names) <= 3 and max([*names, 0]) <= 4


def _is_time(found: re.Match[str]) -> bool:
    """A DT of PS3.5 6.2 that is a moment."""
    try:
        datetime.strptime(found["value"], "%Y%m%d%H%M%S.%f%z")
    except ValueError:
        return False
    return True


ALLOWED = (
    Allowed(
        "dcmpschk",
        r"\w+ (?P<vr>PN|LO|SH|ST|LT|UT) \[(?P<value>.*)\] does not conform to .*",
        "dcmpschk holds texts against expressions of ASCII, whatever character set is declared",
        _beyond_ascii,
    ),
    Allowed(
        "dcmpschk",
        r"\w+ DT \[(?P<value>\d{14}\.\d{6}\+\d{4})\] does not conform to .*",
        "dcmpschk's expression engine does not take the plus of a zone east of Greenwich, though the expression has it",
        _is_time,
    ),
    Allowed(
        "DicomSRValidator",
        r'Error: .*CODE \(121058,DCM,"Procedure reported"\): '
        r'Code \((399208008,SCT,"Plain chest X-ray"|24627-2,LN,"CT Chest")\) not found in context group 100',
        "CID 100 is extensible and has neither a plain chest radiograph nor a CT of the chest",
    ),
    Allowed(
        "DicomSRValidator",
        r"Error: Template 2010 .*\[Row [34]\] CODE CID 701[12]: within 1: /CONTAINER "
        r'\(113001,DCM,"Rejected for Quality Reasons"\): Conditional content item present when condition not satisfied',
        "TID 2010 demands a title modifier with this title (row 3). The validator looks for the title in a sibling of "
        "the modifier, where it never is, and takes the modifier for that of row 4, too",
    ),
)

# What must be repeated byte for byte, by the name that it has with us: the name that it has in the source. A side, too,
# is never left out, however it is written.
_REPEATED = {
    **{
        keyword: keyword
        for keyword in (
            "PatientName",
            "PatientID",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "StudyDescription",
            "AccessionNumber",
            "ReferringPhysicianName",
            "SpecificCharacterSet",
            "SeriesInstanceUID",
            "FrameOfReferenceUID",
            "Laterality",
        )
    },
    "ReferencedSOPInstanceUID": "SOPInstanceUID",
    "ReferencedSOPClassUID": "SOPClassUID",
    "ReferencedFrameOfReferenceUID": "FrameOfReferenceUID",
}


@dataclass
class Verdict:
    """What was said of one file."""

    faults: list[str] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    allowed: list[Allowed] = field(default_factory=list)

    def take(self, tool: str, message: str, inherited: bool) -> None:
        """Sort a message that says that something is wrong."""
        for each in ALLOWED:
            if each.covers(tool, message):
                self.allowed.append(each)
                return
        (self.inherited if inherited else self.faults).append(f"{tool}: {_plain(message)}")


def _plain(message: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in message)[:400]


# --- dciodvfy -------------------------------------------------------------------------------------------------------

Complaint = tuple[str, str]
"""The keyword of the attribute that is wrong, and what is said of it."""


def iod_messages(path: Path) -> list[tuple[str, str, str]]:
    """What dciodvfy says: Error or Warning, the keyword where it names an attribute, and the text."""
    done = _run(["dciodvfy", "-new", path])
    said = re.split(r"(?m)^(?=(?:Error|Warning|Fatal) - )", done.stdout + done.stderr)
    out = []
    for message in said:
        level, dash, text = message.partition(" - ")
        if not dash or level not in ("Error", "Warning", "Fatal"):
            continue
        found = re.match(r"<(/[^>]*)> - (.*)", text.strip(), re.DOTALL)
        keyword = re.sub(r"\(.*", "", found[1].rpartition("/")[2]) if found else ""
        # The name of the IOD stands on a line of its own behind whatever was said last.
        body = re.sub(r"\n[A-Za-z0-9]+\Z", "", found[2] if found else text.strip())
        out.append((level, keyword, body))
    return out


def complaints(paths: Iterable[Path]) -> frozenset[Complaint]:
    """What dciodvfy finds wrong with images, as far as results have to repeat it."""
    found = set()
    for path in paths:
        for level, keyword, text in iod_messages(path):
            if level == "Error":
                found.add((keyword, text))
    return frozenset(found)


def _dciodvfy(path: Path, source: frozenset[Complaint], verdict: Verdict) -> None:
    for level, keyword, text in iod_messages(path):
        if level == "Warning":
            verdict.warnings.append(f"{keyword}: {re.sub('<[^>]*>', '<>', text)}")
        else:
            verdict.take("dciodvfy", f"{keyword}: {text}", _is_inherited(keyword, text, source))


def _is_inherited(keyword: str, text: str, source: frozenset[Complaint]) -> bool:
    """Whether the source draws the same complaint, or one about the very same value, for what has to be repeated."""
    theirs = _REPEATED.get(keyword)
    if (theirs, text) in source:
        return True
    value = re.search(r"= <(.*?)>", text, re.DOTALL)
    return value is not None and any(theirs == bad and value[0] in said for bad, said in source)


_Done = subprocess.CompletedProcess[str]

# --- the others -----------------------------------------------------------------------------------------------------


def _run(command: Sequence[object], env: dict[str, str] | None = None, timeout: float = 300) -> _Done:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, errors="replace", timeout=scaled(timeout), env=env, check=False,
    )  # fmt: skip


def _dcmtk(path: Path, *command: str) -> list[str]:
    """A program of DCMTK, which speaks of errors by E: and F: and by its exit status."""
    done = _run([path if part == "FILE" else part for part in command])
    bad = [line for line in (done.stdout + done.stderr).splitlines() if re.match(r"[EF]: ", line)]
    bad += [f"exit status {done.returncode}"] if done.returncode and not bad else []
    return [line.replace(str(path), "FILE") for line in bad]


def _dcmpschk(path: Path) -> list[str]:
    """What dcmpschk says in blocks, each as one line: the attribute, its VR and value, and what is wrong."""
    done = _run(["dcmpschk", path])
    blocks: list[list[str]] = [[]]
    for line in (done.stdout + done.stderr).splitlines():
        text = re.sub(r"^[EFWI]: ?", "", line)
        if text.startswith("Error: ") or not text.strip():
            blocks.append([])
        blocks[-1].append(text.strip())
    said = []
    for block in blocks:
        text = "\n".join(block)
        wrong = re.search(
            r"not conform.*attribute: (\w+) \(.*Type (\w\w)\nAttribute value +: \[(.*)\]\nExpected .*?: (.*)",
            text,
            re.DOTALL,
        )
        if wrong:
            said.append(f"{wrong[1]} {wrong[2]} [{wrong[3]}] does not conform to {wrong[4].strip()}")
        elif block and block[0].startswith("Error: "):
            said.append(" ".join(block))
        else:
            said += [line for line in block if re.search(r"error", line) and "one or more errors" not in line]
    # It fails a test over what it calls a warning itself: a birth date before 1850.
    dubious = any(line.startswith("Warning: Dubious date") for block in blocks for line in block)
    if not said and not dubious and "Test failed" in done.stdout + done.stderr:
        said.append("Test failed")
    return said


def _gdcmdump(path: Path) -> list[str]:
    done = _run(["gdcmdump", path])
    failed = done.returncode or "error" in done.stderr.lower()
    return [f"exit status {done.returncode}: {done.stderr.strip()[:200]}"] if failed else []


def _pdfinfo(path: Path) -> list[str]:
    with tempfile.NamedTemporaryFile(suffix=".pdf") as document:
        document.write(pydicom.dcmread(path).EncapsulatedDocument)
        document.flush()
        done = _run(["pdfinfo", document.name])
    failed = done.returncode or done.stderr.strip()
    return [f"exit status {done.returncode}: {done.stderr.strip()[:200]}"] if failed else []


def _pydicom(path: Path, sources: Sequence[Path], verdict: Verdict) -> None:
    """Every value is decoded; what breaks there and in the source is the source's."""
    data = pydicom.dcmread(path)
    for keyword in _undecodable(data):
        theirs = {bad for source in sources for bad in _undecodable(pydicom.dcmread(source, force=True))}
        verdict.take("pydicom", f"{keyword} cannot be decoded", _REPEATED.get(keyword, "") in theirs)
    if data.file_meta.MediaStorageSOPInstanceUID != data.SOPInstanceUID:
        verdict.take("pydicom", "the file meta information names another instance", inherited=False)


def _undecodable(data: Dataset) -> set[str]:
    bad = set()
    for tag in list(data.keys()):
        try:
            element = data[tag]
            for item in element.value if element.VR == "SQ" else ():
                bad |= _undecodable(item)
        except Exception:
            bad.add(pydicom.datadict.keyword_for_tag(tag) or str(tag))
    return bad


_CHECKS: dict[str, Callable[[Path], list[str]]] = {
    "dsrdump": lambda path: _dcmtk(path, "dsrdump", "-q", "FILE"),
    "dcmj2pnm": lambda path: _dcmtk(path, "dcmj2pnm", "-q", "FILE", "/dev/null"),
    "dcmpschk": _dcmpschk,
    "pdfinfo": _pdfinfo,
    "gdcmdump": _gdcmdump,
}
PROGRAMS = ("dciodvfy", "DicomSRValidator", *_CHECKS)


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def programs_for(sop_class: str) -> list[str]:
    """The programs, beside dciodvfy, DicomSRValidator and pydicom, that judge an object of a class."""
    if sop_class.startswith(SR_ROOT):
        return ["dsrdump", "gdcmdump"]
    if sop_class.startswith(GSPS_ROOT):
        return ["dcmpschk", "gdcmdump"]
    return ["pdfinfo", "gdcmdump"] if sop_class == PDF else ["dcmj2pnm", "gdcmdump"]


def _ask(program: str, path: Path, source: frozenset[Complaint], verdict: Verdict) -> None:
    """Take a program's messages; what it no longer says once the source's bad values are mended is inherited."""
    said = _CHECKS[program](path)
    theirs: list[str] = []
    if said and source:
        with tempfile.TemporaryDirectory() as folder:
            theirs = list(set(said) - set(_CHECKS[program](_mended(path, source, Path(folder) / "mended.dcm"))))
    for message in said:
        verdict.take(program, message, message in theirs)


_PROPER = {"UI": "1.2.3", "DA": "20260101", "TM": "120000", "CS": "", "PN": "A^B", "LO": "A", "SH": "A"}


def _mended(path: Path, source: frozenset[Complaint], target: Path) -> Path:
    """A copy of an object in which what its source has wrong, and it had to repeat, is right."""
    bad = {keyword for keyword, _ in source}
    data = pydicom.dcmread(path)

    def mend(_: Dataset, element: pydicom.DataElement) -> None:
        if _REPEATED.get(element.keyword) in bad:
            element.value = _PROPER[element.VR]

    data.walk(mend)
    data.save_as(target)
    return target


def judge(files: dict[Path, tuple[Path, ...]], jobs: int, sr_batch: int = 40) -> dict[Path, Verdict]:
    """Every program's verdict on each file; the value of a file are the images that it was made of."""
    with warnings.catch_warnings():  # once for all threads: the filters belong to the process
        warnings.simplefilter("ignore")
        return _judged(files, jobs, sr_batch)


def _judged(files: dict[Path, tuple[Path, ...]], jobs: int, sr_batch: int) -> dict[Path, Verdict]:
    sources = set(files.values())
    classes = {path: str(pydicom.dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID) for path in files}
    verdicts = {path: Verdict() for path in files}
    alike: dict[str, list[Path]] = {}
    for path, sop_class in classes.items():
        if sop_class.startswith(SR_ROOT):
            alike.setdefault(_structure(path), []).append(path)
    documents = [group[0] for group in alike.values()]
    batches = [documents[at : at + sr_batch] for at in range(0, len(documents), sr_batch)]
    with ThreadPoolExecutor(jobs) as pool:
        reports = [pool.submit(_sr_reports, batch) for batch in batches]
        theirs = dict(zip(sources, pool.map(complaints, sources), strict=True))

        def check(path: Path) -> None:
            _dciodvfy(path, theirs[files[path]], verdicts[path])
            for program in programs_for(classes[path]):
                _ask(program, path, theirs[files[path]], verdicts[path])
            _pydicom(path, files[path], verdicts[path])

        list(pool.map(check, files))
        for report in reports:
            lines_of = report.result()
            for group in alike.values():
                if group[0] in lines_of:
                    for path in group:
                        _sr_verdict(lines_of[group[0]], verdicts[path])
    return verdicts


# What no template of PS3.16 looks at: the values of texts, times, numbers, UIDs and coordinates.
_FREE = {
    "TextValue", "UID", "NumericValue", "FloatingPointValue", "RationalNumeratorValue", "RationalDenominatorValue",
    "GraphicData", "ReferencedSOPInstanceUID", "ReferencedFrameNumber", "DateTime", "Date", "Time", "PersonName",
    "ObservationDateTime",
}  # fmt: skip


def _structure(path: Path) -> str:
    """The content of a document without what DicomSRValidator does not look at: documents alike share its report.

    It takes a second a document, and judges templates and relationships alone; dciodvfy and dsrdump read each document.
    """

    def of(item: Dataset) -> list[object]:
        return [
            (
                element.keyword,
                [of(part) for part in element.value]
                if element.VR == "SQ"
                else (len(element.value) if element.keyword == "GraphicData" else bool(element.value))
                if element.keyword in _FREE
                else str(element.value),
            )
            for element in item
        ]

    data = pydicom.dcmread(path)
    keywords = ("SOPClassUID", "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence")
    root = Dataset()
    for keyword in (*keywords, "ContentSequence"):
        if keyword in data:
            root[keyword] = data[keyword]
    return repr(of(root))


def _sr_reports(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """What DicomSRValidator says of each document, all read by one Java machine where there is its library."""
    # JDK 17 caps XPath operators below what it needs.
    java = "-Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    env = {**os.environ, "JAVA_TOOL_OPTIONS": java}
    if not _PIXELMED.is_file():
        return {path: _run(["DicomSRValidator", path], env=env).stdout.splitlines() for path in paths}
    batch = Path(__file__).with_name("SRBatch.java")
    java_command = ["java", "-XX:+UseSerialGC", "-cp", _PIXELMED, batch, *paths]
    done = _run(java_command, env=env, timeout=120 + 30 * len(paths))
    reports: dict[Path, list[str]] = {}
    for part in done.stdout.split("\x01")[1:]:
        name, *lines = part.splitlines()
        reports[Path(name)] = lines
    for path in paths:
        reports.setdefault(path, [f"Error: no report: exit status {done.returncode}: {done.stderr[-200:]}"])
    return reports


def _sr_verdict(lines: Sequence[str], verdict: Verdict) -> None:
    if not any("validation complete" in line.lower() for line in lines):
        verdict.take("DicomSRValidator", "Error: it did not come to its end", inherited=False)
    for line in lines:
        if "Error" in line or "Exception" in line:
            verdict.take("DicomSRValidator", line, inherited=False)
        elif line.startswith("Warning"):
            verdict.warnings.append(f"DicomSRValidator: {re.sub(r'[0-9.]+: /.*: ', '', line)}")
