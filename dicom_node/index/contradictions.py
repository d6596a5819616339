"""Contradictions and corrections: images that came changed, from whom they may and from others; UIDs in two studies.

A contradiction is open while its row is there. An administrator decides it (`operations.quarantine`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from dicom_node.index.instances import InstanceStatements
from dicom_node.index.rows import Change, Contradiction, NewInstance, Unsettled

_COLUMNS = """id, study, kind, sop_instance_uid, other_study, change, compared, calling_ae, peer, file, bytes,
    instances, received"""


class ContradictionStatements(InstanceStatements):
    """What the index knows of contradictions."""

    def hold(self, new: NewInstance, compared: int, change: Change, now: float) -> None:
        """Record an image that is in quarantine: its sender may not correct the edition that it was compared with."""
        with self.transaction():
            self._run(
                """INSERT INTO contradictions (study, kind, sop_instance_uid, change, compared, calling_ae, peer,
                    instance, file, bytes, received) VALUES (?, 'not authorized', ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                *(new.study, new.sop_instance_uid, change, compared, new.calling_ae, new.peer),
                *(json.dumps(asdict(new)), new.file, new.bytes, now),
            )

    def add_to_another_study(self, new: NewInstance, studies: Sequence[str], now: float) -> None:
        """Record an instance whose UID came before under ``studies``: the first one of them and this one contradict."""
        with self.transaction():
            self.add_instance(new, now, studies_before=len(studies))
            self._run(
                """INSERT INTO contradictions (study, kind, sop_instance_uid, other_study, calling_ae, peer, received)
                VALUES (?, 'two studies', ?, ?, ?, ?, ?)
                ON CONFLICT (other_study, study) DO UPDATE SET instances = instances + 1""",
                *(new.study, new.sop_instance_uid, studies[0], new.calling_ae, new.peer, now),
            )

    def unsettled(self, study: str) -> list[Unsettled]:
        """The editions of images that were read before, of which it is unknown what they changed; the first one first.

        Those whose file, or the file of the edition before, is not there are not among them.
        """
        rows = self._rows(
            """SELECT c.sop_instance_uid, c.edition, a.file, b.file FROM corrections c
                JOIN instances a ON a.study = c.study AND a.site = c.site AND a.sop_instance_uid = c.sop_instance_uid
                    AND a.edition = c.edition
                JOIN instances b ON b.study = c.study AND b.site = c.site AND b.sop_instance_uid = c.sop_instance_uid
                    AND b.edition = c.edition - 1
            WHERE c.study = ?1 AND c.change = 'unknown' AND a.removed IS NULL AND b.removed IS NULL AND NOT a.own
                AND c.sop_instance_uid IN
                    (SELECT e.value FROM readings g, json_each(g.reading, '$.sources') e WHERE g.study = ?1)
            ORDER BY c.sop_instance_uid, c.edition""",
            study,
        )
        return [Unsettled(*row) for row in rows]

    def settle(self, study: str, sop_instance_uid: str, edition: int, change: Change) -> None:
        """Record what an edition changed against the one before; one that changed nothing says what that one says."""
        with self.transaction():
            key = (study, sop_instance_uid, edition)
            self._run(
                "UPDATE corrections SET change = ? WHERE study = ? AND sop_instance_uid = ? AND edition = ?",
                *(change, *key),
            )
            if change == "none":
                self._run(
                    """UPDATE instances SET meaning = (SELECT b.meaning FROM instances b WHERE b.study = instances.study
                        AND b.sop_instance_uid = instances.sop_instance_uid AND b.edition = instances.edition - 1)
                    WHERE study = ? AND sop_instance_uid = ? AND edition = ?""",
                    *key,
                )

    def contradicts(self, study: str, other: str) -> bool:
        """Whether it is recorded that a study has UIDs of an ``other`` one that came before."""
        return bool(self._rows("SELECT 1 FROM contradictions WHERE study = ? AND other_study = ?", study, other))

    def quarantined(self) -> tuple[int, int]:
        """How many contradictions are open, and how many bytes of images wait with them."""
        row = self._rows("SELECT count(*), total(bytes) FROM contradictions")[0]
        return int(row[0]), int(row[1])

    def quarantined_files(self, study: str, sop_instance_uid: str) -> list[str]:
        """The files of an instance that are in quarantine."""
        rows = self._rows(
            "SELECT file FROM contradictions WHERE study = ? AND sop_instance_uid = ? AND file IS NOT NULL",
            *(study, sop_instance_uid),
        )
        return [row[0] for row in rows]

    def contradictions(self, study: str | None = None, *, number: int | None = None) -> list[Contradiction]:
        """Open contradictions, oldest first: all, or those of a study, or the one with a number."""
        rows = self._rows(
            f"""SELECT {_COLUMNS} FROM contradictions
            WHERE (?1 IS NULL OR study = ?1 OR other_study = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY id""",  # noqa: S608
            *(study, number),
        )
        return [Contradiction(**dict(row)) for row in rows]

    def accept_contradiction(self, number: int, file: str, edition: int, now: float) -> None:
        """Make an image in quarantine the newest edition of its instance, which opens its study again.

        Args:
            number: of the contradiction, which is none any more.
            file: where the image is now.
            edition: the number that the file was given.
            now: epoch seconds.

        Raises:
            LookupError: there is no such contradiction.
            sqlite3.IntegrityError: another edition came meanwhile.
        """
        with self.transaction():
            rows = self._rows("SELECT change, compared, instance FROM contradictions WHERE id = ?", number)
            if not rows:
                raise LookupError(number)
            change, compared, instance = rows[0]
            new = NewInstance(**{**json.loads(instance), "file": file})
            changed: Change = change if edition == compared + 1 else "unknown"
            self.correct_instance(new, edition, now, change=changed)
            self._run("DELETE FROM contradictions WHERE id = ?", number)

    def end_contradiction(self, number: int) -> None:
        """Forget a contradiction; the caller has deleted the file, if it has one."""
        with self.transaction():
            self._run("DELETE FROM contradictions WHERE id = ?", number)
