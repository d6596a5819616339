"""The validation matrix: results of every outcome of every source, judged by every validator that knows them.

``scripts/validate`` runs it. Sources (`matrix_sources`) times outcomes (`matrix_outcomes`) is covered whole, each pair
once where it can be; a pair's profile (language x character set x report class x qualification) goes through all that
there are in a Latin square, so that each source and each outcome meets each profile. ``--quick`` makes one pair of each
source and of each outcome. Whatever roles :func:`dicom_node.results.encode` gives are written and judged.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from dicom_node import log
from dicom_node.config.settings import Profile
from dicom_node.config.values import Language
from dicom_node.results import encode
from tests.support.matrix_outcomes import Outcome, outcomes, run_of
from tests.support.matrix_sources import Source, Study, sources, study_of
from tests.support.validators import Verdict, judge, missing

_LANGUAGES: tuple[Language, ...] = ("en", "ko", "ja")
_CHARACTERS: tuple[Literal["source", "utf-8"], ...] = ("source", "utf-8")
_REPORTS: tuple[Literal["comprehensive", "comprehensive3d"], ...] = ("comprehensive", "comprehensive3d")
PROFILES = tuple(
    Profile(
        outputs=("sr", "sc", "gsps", "seg", "pdf", "kos"),
        language=language,
        character_set=characters,
        sr_class=report,
        content_qualification="PRODUCT" if number % 3 == 1 else "RESEARCH",
        prevalence=(("effusion", 0.2), ("nodule", 0.005)) if number % 2 else (),
    )
    for number, (language, characters, report) in enumerate(itertools.product(_LANGUAGES, _CHARACTERS, _REPORTS))
)
"""Every language with every character set and report class; the qualification goes along."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what was said of a study, and how it is to be written."""

    study: Study
    outcome: str
    profile: Profile
    again: bool
    """Whether it is encoded a second time, which must give the same bytes."""

    @property
    def name(self) -> str:
        """The folder of its objects."""
        return f"{self.study.name}/{self.outcome}"


@dataclass(frozen=True, slots=True)
class Built:
    """The files of a case, or what kept them from being made."""

    case: Case
    files: tuple[Path, ...]
    faults: tuple[str, ...]


def cases(studies: Sequence[Study], made: Sequence[Outcome], *, quick: bool = False) -> list[Case]:
    """Which outcome of which study is written in which way."""
    out = []
    for row, study in enumerate(studies):
        fitting = [(column, outcome) for column, outcome in enumerate(made) if outcome.fits(study)]
        if quick:
            fitting = [fitting[row % len(fitting)]]
        out += [
            Case(study, outcome.name, PROFILES[(row + column) % len(PROFILES)], again=(row + column) % 9 == 0)
            for column, outcome in fitting
        ]
    return out


def build(case: Case, folder: Path) -> Built:
    """Encode one case and write its objects; what goes wrong is a fault of ours, whatever the source is like."""
    log.silence_libraries()
    outcome = next(each for each in outcomes() if each.name == case.outcome)
    run = run_of(case.study, outcome, case.profile)
    faults, files = [], []
    try:
        objects = encode(run)
        if case.again and [o.content for o in encode(run)] != [o.content for o in objects]:
            faults.append("a second encoding gives other bytes")
    except (Exception, RecursionError) as error:
        at = error.__traceback__
        while (
            at is not None and at.tb_next is not None and "site-packages" not in at.tb_next.tb_frame.f_code.co_filename
        ):
            at = at.tb_next
        where = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at is not None else ""
        # These sources hold no patient: the message may be shown.
        return Built(case, (), (f"encode raises {type(error).__name__} at {where}: {error}"[:300],))
    target = folder / case.name
    target.mkdir(parents=True, exist_ok=True)
    seen = Counter(o.sop_instance_uid for o in objects)
    faults += [f"two objects have the UID {uid}" for uid, count in seen.items() if count > 1]
    for o in objects:
        path = target / f"{o.role}-{o.index}.dcm"
        path.write_bytes(o.content)
        files.append(path)
    return Built(case, tuple(files), tuple(faults))


def built(chosen: Sequence[Case], folder: Path, jobs: int) -> list[Built]:
    """Encode cases in processes of their own."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(build, folder=folder), chosen, chunksize=4))


def written_sources(made: Iterable[Source], folder: Path) -> list[Study]:
    """The sources as files."""
    return [study_of(source, folder / source.name) for source in made]


@dataclass(frozen=True, slots=True)
class Report:
    """All that was built and said."""

    cases: list[Built]
    verdicts: dict[Path, Verdict]

    @property
    def faults(self) -> list[str]:
        """One line for each fault."""
        lines = [f"{each.case.name}: {fault}" for each in self.cases for fault in each.faults]
        for each in self.cases:
            for path in each.files:
                lines += [f"{each.case.name}/{path.name}: {fault}" for fault in self.verdicts[path].faults]
        return lines

    @property
    def inherited(self) -> list[str]:
        """One line for each fault of a source that we repeat."""
        return [
            f"{each.case.name}/{path.name}: {line}"
            for each in self.cases
            for path in each.files
            for line in self.verdicts[path].inherited
        ]


def validated(chosen: Sequence[Case], folder: Path, jobs: int) -> Report:
    """Build the cases and have every object judged."""
    everything = built(chosen, folder, jobs)
    return Report(everything, judge(files_of(everything), jobs))


def files_of(everything: Iterable[Built]) -> dict[Path, tuple[Path, ...]]:
    """Every object and the images that it was made of."""
    return {
        path: tuple(Path(ref.content) for ref in each.case.study.refs) for each in everything for path in each.files
    }


def _table(report: Report) -> list[str]:
    rows: dict[str, Counter[str]] = {}
    for each in report.cases:
        row = rows.setdefault(each.case.study.name, Counter())
        row["outcomes"] += 1
        row["files"] += len(each.files)
        row["faults"] += len(each.faults)
        for path in each.files:
            row["faults"] += len(report.verdicts[path].faults)
            row["inherited"] += len(report.verdicts[path].inherited)
    columns = ("outcomes", "files", "faults", "inherited")
    total: Counter[str] = sum(rows.values(), Counter())
    lines = [f"{'source':28}" + "".join(f"{column:>10}" for column in columns)]
    lines += [f"{name:28}" + "".join(f"{row[column]:10}" for column in columns) for name, row in rows.items()]
    lines.append(f"{f'{len(rows)} sources':28}" + "".join(f"{total[column]:10}" for column in columns))
    return lines


def _summary(report: Report) -> list[str]:
    lines = ["", "inherited from the sources, by message:"]
    verdicts = report.verdicts.values()
    inherited = Counter(line for verdict in verdicts for line in verdict.inherited)
    lines += [f"{count:6} {line}" for line, count in inherited.most_common()]
    lines += ["", "allowed, and why:"]
    allowed = Counter(each for verdict in verdicts for each in verdict.allowed)
    lines += [f"{count:6} {each.tool}: {each.pattern}\n       {each.reason}" for each, count in allowed.most_common()]
    lines += ["", "warnings, which are no faults (the twenty most frequent):"]
    warned = Counter(line for verdict in verdicts for line in verdict.warnings)
    lines += [f"{count:6} {line[:200]}" for line, count in warned.most_common(20)]
    kinds = Counter(path.name.partition("-")[0] for path in report.verdicts)
    met = Counter(each.case.outcome for each in report.cases)
    lines += ["", "outcomes: " + ", ".join(f"{name} {count}" for name, count in met.items())]
    lines += ["objects:  " + ", ".join(f"{name} {count}" for name, count in kinds.items()), ""]
    return lines + _table(report)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/validate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="keep sources and results in this folder, which must be new or empty")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time (2)")
    parser.add_argument("--quick", action="store_true", help="one outcome of each source")
    parser.add_argument("--only", default="", help="sources and outcomes with this in SOURCE/OUTCOME")
    asked = parser.parse_args(arguments)
    if lacking := missing():
        parser.error(f"not installed: {', '.join(lacking)} (scripts/test installs them by apt-get)")
    if asked.out is not None and asked.out.is_dir() and any(asked.out.iterdir()):
        parser.error(f"{asked.out} is not empty")
    start = time.monotonic()
    folder = asked.out.resolve() if asked.out is not None else Path(tempfile.mkdtemp(prefix="validate-"))
    try:
        studies = written_sources(sources(), folder / "sources")
        chosen = [case for case in cases(studies, outcomes(), quick=asked.quick) if asked.only in case.name]
        report = validated(chosen, folder / "results", asked.jobs)
    finally:
        if asked.out is None:
            shutil.rmtree(folder, ignore_errors=True)
    for line in report.faults:
        print(f"FAULT {line}")
    print("\n".join(_summary(report)))
    print(f"{time.monotonic() - start:.0f} s with {asked.jobs} jobs")
    return 1 if report.faults else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
