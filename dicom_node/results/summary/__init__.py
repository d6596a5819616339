"""The summary of what several models say of one study: a report (SR) and a card (SC) that name who agrees with whom.

Start here for: how the models are compared and in which order classes stand (:mod:`agreement`), the sentences
(:mod:`sentences`), the report (:mod:`report`) and the card (:mod:`card`). It is encoded like a reading, by a device of
its own: the node, which finds nothing itself. Its two series have the last two Series Numbers of the first model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from pydicom.dataset import Dataset

from ai.contract import InstanceRef, ModelIdentity, PassedOver, Reading
from dicom_node import __version__
from dicom_node.results.encode import fitted, in_the_wanted_characters
from dicom_node.results.images import Images
from dicom_node.results.run import SUMMARY_OFFSET, Predecessor, Run
from dicom_node.results.summary import card, report
from dicom_node.results.summary.sentences import Compared, headline
from dicom_node.results.uids import ENCODER_VERSION, digest_of
from dicom_node.results.words.texts import WORDS


def key_of(site: str, runs: Sequence[Sequence[str]], sources: Sequence[str], *, withdrawals: int = 0) -> str:
    """The identity of a summary as 64 hex digits: the same readings with the same reports have the same summary.

    ``runs`` are each model's run key, name and SR Instance UID, empty where it has none. Their order does not matter,
    nor does that of ``sources``. ``withdrawals`` is as for :func:`uids.run_key`.
    """
    told = sorted([list(each) for each in runs])
    return digest_of("summary", ENCODER_VERSION, __version__, site, told, sorted(sources), withdrawals)


def reading_of(site: str, sources: Sequence[InstanceRef], answers: Sequence[Reading]) -> Reading:
    """A summary as a reading by this node: it has no class and no finding of its own.

    ``failed`` has what a model could not read; a model that failed as a whole stands there with the first source.
    """
    node = ModelIdentity("summary", __version__, digest_of("node", site), "dicom-node", "", "")
    unread = [each for answer in answers for each in answer.failed]
    unread += [PassedOver(sources[0].sop_instance_uid, answer.failure) for answer in answers if answer.failure]
    remark = headline(WORDS["en"], answers)
    failed = tuple(dict.fromkeys(unread))
    return Reading(node, tuple(sources), (), (), (), (), failed=failed, remarks=(remark,))


def datasets(
    run: Run, answers: Sequence[Reading], reports: Sequence[Predecessor], images: Images
) -> Iterator[tuple[str, Dataset]]:
    """The role and the data set of each object that the run's profile asks for; of a summary these are "sr" and "sc".

    ``run.reading`` is that of `reading_of`; ``answers`` are what the models said, in the configuration's order, and
    ``reports`` the reports of them that the destination has.

    Raises:
        ReadingError: a header cannot be parsed, or the sources are not all of one patient.
    """
    headers = [images.header(ref) for ref in run.reading.sources]
    run, headers = in_the_wanted_characters(dataclasses.replace(run, offset=SUMMARY_OFFSET), headers)
    written = [fitted(dataclasses.replace(run, reading=each), headers[0]).reading for each in answers]
    compared = Compared(fitted(run, headers[0]), tuple(written))
    made: dict[str, Callable[[], Dataset]] = {
        "sr": lambda: report.build(compared, headers, reports),
        "sc": lambda: card.build(compared, headers),
    }
    for role, build in made.items():
        if role in run.profile.made:
            yield role, build()
