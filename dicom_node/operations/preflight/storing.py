"""The pre-flight after its first association: send the test study, query and retrieve it, compare, and clean up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_node.config.settings import Profile
from dicom_node.delivery.accepted import contexts, in_words
from dicom_node.dicom.compressed import SYNTAXES, decompressed
from dicom_node.errors import Retryable
from dicom_node.network.attempt import Attempt, ContextAnswer
from dicom_node.network.requestor import Requestor, uncompressed
from dicom_node.network.status import CONTEXT_RESULTS, Verdict
from dicom_node.network.storage_scu import Response, store
from dicom_node.operations.check import Point
from dicom_node.operations.preflight import compare
from dicom_node.operations.preflight.asking import KEYS, REQUIRED, Finder, finder, get_study
from dicom_node.operations.preflight.reach import NoAnswerError, NoAssociationError, Target
from dicom_node.operations.preflight.study import PATIENT_ID, PATIENT_NAME, Sample, TestStudy, make, rejection_note

_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_LOST_IN_A_ROW = 2
_FIXES = {
    0x0122: "the PACS agreed to this SOP class and refuses it all the same: have it switched on there",
    0x0124: "our AE title may call but not store: give {ours} that right on the PACS",
    0xA700: "look at the PACS's disk space, quotas and queues",
}


class Preflight:
    """One pre-flight of a PACS that can be reached.

    ``hours`` is how long the node would try to deliver a result. ``record`` records what the PACS accepted for the
    node, and returns whether it could.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        profiles: Sequence[tuple[str, Profile]],
        now: datetime,
        *,
        hours: float,
        record: Callable[[Attempt], bool],
    ) -> None:
        self._target = target
        self._folder = folder
        self._profiles = profiles
        self._now = now
        self._hours = hours
        self._record = record
        self._theirs = target.peer.ae_title
        self._not_taken: list[Sample] = []  # objects of SOP classes that the PACS refused
        self._lost = 0  # the last objects that got no answer, in a row
        self._stored: list[Sample] = []
        self._kept: set[str] | None = None  # None: the PACS cannot be queried
        self._altered: set[str] = set()

    def points(self, *, reject: bool) -> Iterator[Point]:
        """Every step in order; the last point always says what the PACS has at the end."""
        study = make(self._folder, self._profiles, self._now)
        count = len(study.results)
        yield Point(
            "ok",
            "test study",
            f"1 image and {count} result{'s' * (count != 1)} of nobody: PatientName {PATIENT_NAME}, PatientID "
            f"{PATIENT_ID}, StudyInstanceUID {study.uid}",
        )
        for one in study.unmade:
            yield Point("warn", "test study", f"holds no {one}: what the PACS does with such objects is not known")
        yield from self._send(study.samples)
        if self._stored:
            yield from self._find(study)
            yield from self._get(study)
            if reject:
                yield from self._reject(study)
            else:
                yield Point("ok", "clean up", self._by_hand(study))
        yield self._summary(study)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, samples: Sequence[Sample]) -> Iterator[Point]:
        """C-STORE each object. There is a new association after each one that broke."""
        classes = list(dict.fromkeys(sample.sop_class for sample in samples))
        waiting: deque[Sample] | None = None
        while waiting is None or (waiting and self._lost < _LOST_IN_A_ROW):
            try:
                with self._target.call(contexts(classes)) as requestor:
                    if waiting is None:
                        yield from self._negotiated(classes, requestor.contexts, samples)
                        yield from self._pictures(classes, requestor.attempt)
                        waiting = deque(sample for sample in samples if sample not in self._not_taken)
                    while waiting and requestor.is_open:
                        yield self._store(requestor, waiting.popleft())
                        if self._lost:  # pynetdicom may not have noticed yet that the association has ended
                            break
            except NoAssociationError as error:
                if not error.contexts or waiting is not None:
                    yield Point("FAIL", "association for storing", str(error))
                else:
                    yield from self._negotiated(classes, error.contexts, samples)
                return
        if waiting:
            names = ", ".join(sample.label for sample in waiting)
            yield Point(
                "FAIL", "C-STORE", f"broken off after {self._lost} objects without an answer; not sent: {names}"
            )

    def _negotiated(
        self, classes: Sequence[UID], answers: Sequence[ContextAnswer], samples: Sequence[Sample]
    ) -> Iterator[Point]:
        """The outcome for each SOP class. The node can do without one of them, not without all."""
        results = {sop_class: [one for one in answers if one.sop_class == sop_class] for sop_class in classes}
        taken = {sop_class for sop_class in classes if any(one.accepted for one in results[sop_class])}
        self._not_taken = [sample for sample in samples if sample.sop_class not in taken]
        some = any(sample.sop_class in taken and sample.role != "source" for sample in samples)
        for sop_class in classes:
            roles = sorted({sample.role for sample in samples if sample.sop_class == sop_class})
            named = f"{sop_class.name} ({sop_class})"
            if sop_class in taken:
                yield _taken(named, [one.transfer_syntax for one in results[sop_class] if one.accepted])
                continue
            why = sorted({CONTEXT_RESULTS.get(one.result, f"result {one.result}") for one in results[sop_class]})
            refused = f"{named} is refused: {', '.join(why) or 'no answer'}"
            if roles == ["source"]:
                yield Point("warn", "SOP class", f"{refused}. It is no result: these are sent without their image")
                continue
            if why == [CONTEXT_RESULTS[4]]:
                fix = f"the PACS must take {_or(_SYNTAXES)} for it, the second of which every DICOM system must take"
            else:
                fix = f"have it switched on in the PACS for {self._target.ours}"
            fix += f", or leave {', '.join(roles)} out of outputs for this destination"
            goes_on = "the node leaves such results out and says so with the study" if some else "no result can be sent"
            yield Point("warn" if some else "FAIL", "SOP class", f"{refused}; {goes_on}: {fix}")

    def _pictures(self, classes: Sequence[UID], attempt: Attempt | None) -> Iterator[Point]:
        """How the node would send pictures, and whether it was told: it encodes them by what was last accepted."""
        if attempt is None or SecondaryCaptureImageStorage not in classes:
            return
        told = "; recorded for the node" if self._record(attempt) else ""
        yield Point("ok", "pictures", f"the PACS gets {in_words(attempt)}{told}")

    def _store(self, requestor: Requestor, sample: Sample) -> Point:
        what = f"C-STORE {sample.label}"
        began = time.perf_counter()
        response = _c_store(requestor, sample)
        took = time.perf_counter() - began
        self._lost = 0 if response is not None else self._lost + 1
        if response is None:
            limit = self._target.limits.answer
            how = "the PACS ended the association without an answer"
            fix = f"it does not get on with this object, or does not let {self._target.ours} store"
            if took >= limit:
                how, fix = f"no answer within {limit:g} s", "it may be busy, or hang"
            again = f"the node would try again for {self._hours:g} hours"
            where = f"its log says more, under SOP Instance UID {sample.sop_instance}"
            return Point("FAIL", what, f"{how}: {fix}; {again}; {where}")
        code, text = response.status, f"answered {response.text}"
        if response.verdict is Verdict.STORED:
            self._stored.append(sample)
            if code == 0x0000:
                return Point("ok", what, f"{text} ({1000 * took:.0f} ms)")
            return Point("warn", what, f"{text}. It is stored; what was changed shows below, if it can be asked")
        then = (
            "the PACS refuses it for good, and the node would call the study failed"
            if response.verdict is Verdict.REFUSED
            else f"the node would try again for {self._hours:g} hours"
        )
        fix = _FIXES.get(code & 0xFF00 if code & 0xFF00 == 0xA700 else code, "").format(ours=self._target.ours)
        fix = fix or f"its log says why, under SOP Instance UID {sample.sop_instance}"
        return Point("FAIL", what, f"{text}; {then}: {fix}")

    # --- asking back --------------------------------------------------------------------------------------------------

    def _find(self, study: TestStudy) -> Iterator[Point]:
        try:
            with finder(self._target) as asked:
                yield from self._found(asked, study)
        except NoAssociationError as error:
            why = "it does not offer Study Root C-FIND" if error.contexts else str(error)
            yield self._cannot_ask(why, study)
        except NoAnswerError as error:
            yield self._cannot_ask(str(error), study)

    def _cannot_ask(self, why: str, study: TestStudy) -> Point:
        return Point(
            "warn",
            "C-FIND",
            f"{why}: it cannot be asked what it kept. Allow {self._target.ours} to query, or look into its viewer for "
            f"PatientID {PATIENT_ID}, StudyInstanceUID {study.uid}",
        )

    def _found(self, asked: Finder, study: TestStudy) -> Iterator[Point]:
        limits = self._target.limits
        began = time.monotonic()
        found = self._wait(asked, study, self._target.left(limits.found), until_all=True)
        took = time.monotonic() - began
        self._kept = set(found)
        one, series = asked.study(study.uid), asked.series(study.uid)
        yield Point(
            "ok",
            "C-FIND",
            f"{self._theirs} answers queries of {self._target.ours}; {len(found)} of {len(self._stored)} objects found "
            f"after {took:.1f} s",
        )
        if one is not None:
            differences = compare.answered(self._stored[0].read(), one, KEYS["STUDY"], sorted(REQUIRED))
            yield self._compared("kept study", "patient and study", differences)
        for sample in self._stored:
            what = f"kept {sample.label}"
            if sample.sop_instance in found:
                sent = sample.read()
                differences = compare.answered(sent, found[sample.sop_instance], KEYS["IMAGE"], sorted(REQUIRED))
                if sample.series in series:
                    differences += compare.answered(sent, series[sample.series], KEYS["SERIES"], sorted(REQUIRED))
                if differences:
                    self._altered.add(sample.sop_instance)
                yield self._compared(what, "series and object", differences)
            elif not found and sample.series in series:
                self._kept.add(sample.sop_instance)
                yield Point("warn", what, "its series is found, but the PACS answers no queries on IMAGE level")
            else:
                why = (
                    f"answered as stored, but not found within {limits.found:g} s: it may wait in the PACS for an order"
                )
                why += " or a patient to fit, or have been dropped. Its log says more"
                yield Point("FAIL", what, f"{why}, under SOP Instance UID {sample.sop_instance}")

    def _wait(self, asked: Finder, study: TestStudy, seconds: float, *, until_all: bool) -> dict[str, Any]:
        """Query until all objects are found (none, if ``until_all`` is false); returns those of the last query."""
        end = time.monotonic() + seconds
        stored = {sample.sop_instance for sample in self._stored}
        found: dict[str, Any] = {}
        while True:
            if not until_all:
                found = {}
            for series in dict.fromkeys(sample.series for sample in self._stored if sample.sop_instance not in found):
                instances = asked.instances(study.uid, series)
                found.update({uid: one for uid, one in instances.items() if uid in stored})
            done = len(found) == len(stored) if until_all else not found
            if done or time.monotonic() + self._target.limits.pause > end:
                return found
            time.sleep(self._target.limits.pause)

    def _compared(self, what: str, of: str, differences: Sequence[compare.Difference]) -> Point:
        if all(difference.kind == "added" for difference in differences):
            added = f"; the PACS added to them: {compare.told(differences)}" if differences else ""
            return Point("ok", what, f"found, attributes of {of} as sent{added}")
        return Point("warn", what, f"found, but changed by the PACS: {compare.told(differences)}")

    def _get(self, study: TestStudy) -> Iterator[Point]:
        if not self._target.left():
            return
        wanted = {sample.sop_instance: str(sample.sop_class) for sample in self._stored}
        only = "only the attributes that C-FIND returns were compared" if self._kept is not None else "nothing compared"
        try:
            returned = get_study(self._target, study.uid, wanted)
        except NoAnswerError as error:
            offered = not getattr(error, "contexts", ())
            why = str(error) if offered else "it does not offer C-GET"
            yield Point("warn" if offered else "ok", "C-GET", f"{why}; {only}")
            return
        for sample in self._stored:
            what = f"C-GET {sample.label}"
            if sample.sop_instance not in returned:
                if self._kept is None or sample.sop_instance in self._kept:  # otherwise C-FIND told it already
                    yield Point("warn", what, "did not come back")
                continue
            sent = _as_returned(sample, returned[sample.sop_instance])
            differences = list(compare.elements(sent, returned[sample.sop_instance]))
            if all(difference.kind == "added" for difference in differences):
                added = f"; the PACS added: {compare.told(differences)}" if differences else ""
                yield Point("ok", what, f"came back, all {len(sent)} elements as sent{added}")
            else:
                self._altered.add(sample.sop_instance)
                yield Point("warn", what, f"came back changed: {compare.told(differences)}")

    # --- cleaning up --------------------------------------------------------------------------------------------------

    def _by_hand(self, study: TestStudy) -> str:
        uids = f"PatientID {PATIENT_ID}, StudyInstanceUID {study.uid}"
        return f"the test study stays in the PACS; to delete it there: {uids}"

    def _reject(self, study: TestStudy) -> Iterator[Point]:
        """Send a rejection note (IHE IOCM), and find out whether the archive hides what it rejects."""
        note = rejection_note(self._folder, study, self._stored, self._now)
        try:
            yield Point("ok", "rejection note", self._send_note(note))
        except NoAnswerError as error:
            refused = getattr(error, "contexts", ())
            why = f"it does not take {note.sop_class.name} ({note.sop_class})" if refused else str(error)
            yield Point("warn", "rejection note", f"{why}; {self._by_hand(study)}")
            return
        if self._kept is None:
            why = "whether the PACS hides the rejected objects cannot be asked"
            yield Point("warn", "clean up", f"{why}; if it does not: {self._by_hand(study)}")
            return
        try:
            with finder(self._target) as asked:
                left = self._wait(asked, study, self._target.left(self._target.limits.hidden), until_all=False)
        except NoAnswerError as error:
            yield Point("warn", "clean up", f"{error}; {self._by_hand(study)}")
            return
        if not left:
            yield Point("ok", "clean up", "the rejected objects are found no more: the archive supports IHE IOCM")
            return
        why = f"{len(left)} of {len(self._stored)} rejected objects are still found: it does not act on rejection notes"
        yield Point(
            "warn", "clean up", f"{why} (IHE IOCM), or not on those of {self._target.ours}; {self._by_hand(study)}"
        )

    def _send_note(self, note: Sample) -> str:
        with self._target.call(uncompressed((note.sop_class,))) as requestor:
            response = _c_store(requestor, note)
        if response is None:
            raise NoAnswerError("it did not answer")
        text = f"answered {response.text}"
        if response.verdict is not Verdict.STORED:
            raise NoAnswerError(text)
        return text

    def _summary(self, study: TestStudy) -> Point:
        every, took = len(study.samples), len(self._stored)
        text = f"{self._theirs} took {took} of {every} objects"
        if self._not_taken:
            text += f" ({len(self._not_taken)} are of SOP classes that it refuses)"
        changed = len(self._altered)
        if took:
            text += ", what it kept is not known" if self._kept is None else f", kept {len(self._kept)}"
            text += f", changed {changed}" if self._kept is not None or changed else ""
        good = took == every - len(self._not_taken) and (self._kept is None or len(self._kept) == took)
        if not good or not any(sample.role != "source" for sample in self._stored):
            return Point("FAIL", "in all", text)
        return Point("warn" if changed or self._not_taken or self._kept is None else "ok", "in all", text)


def _c_store(requestor: Requestor, sample: Sample) -> Response | None:
    """C-STORE as the node does it. None if there was no response."""
    try:
        return store(requestor, sample.path)
    except Retryable:  # the association is gone
        return None


def _taken(named: str, syntaxes: Sequence[str]) -> Point:
    """In which transfer syntaxes a SOP class is taken."""
    if ExplicitVRLittleEndian in syntaxes:
        syntaxes = [syntax for syntax in syntaxes if syntax != ImplicitVRLittleEndian]  # the node has no use for it
    names = ", ".join(UID(syntax).name for syntax in syntaxes)
    if ExplicitVRLittleEndian in syntaxes:
        return Point("ok", "SOP class", f"{named} is taken, in {names}")
    then = "the node converts what it sends"
    if ImplicitVRLittleEndian not in syntaxes:
        then = "what the node makes in another transfer syntax is left out"
    return Point("warn", "SOP class", f"{named} is taken in {names} only: {then}")


def _as_returned(sample: Sample, returned: Dataset) -> Dataset:
    """An object as it was sent; decompressed if it came back so, since its pixels are the same (PS3.5 8.2)."""
    sent = sample.read()
    syntax = getattr(getattr(returned, "file_meta", None), "TransferSyntaxUID", None)
    if sent.file_meta.TransferSyntaxUID in SYNTAXES and syntax in _SYNTAXES:
        return decompressed(sample.path) or sent
    return sent


def _or(syntaxes: Sequence[str]) -> str:
    return " or ".join(UID(syntax).name for syntax in syntaxes)
