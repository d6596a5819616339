"""Statements of performed procedure steps (MPPS, PS3.4 annex F): which instances a modality says that it made."""

from __future__ import annotations

import json
from collections.abc import Collection

from dicom_node.index.rows import Step
from dicom_node.index.statements import Statements

_KEPT_SECONDS = 30 * 86400.0  # a step matters while the images of its study come; modalities report every step


class StepStatements(Statements):
    """What the index knows of procedure steps."""

    def add_step(self, sop_instance_uid: str, studies: Collection[str], calling_ae: str, now: float) -> bool:
        """Record a step that a modality began; steps without news for 30 days are deleted.

        Returns:
            whether it is new; a known step is left as it is.
        """
        with self.transaction():
            self._run("DELETE FROM steps WHERE changed < ?", now - _KEPT_SECONDS)
            if self._run("SELECT 1 FROM steps WHERE sop_instance_uid = ?", sop_instance_uid).fetchone():
                return False
            for study in studies:
                self._run(
                    """INSERT INTO steps (study, sop_instance_uid, state, calling_ae, created, changed)
                    VALUES (?, ?, 'IN PROGRESS', ?, ?, ?)""",
                    study,
                    sop_instance_uid,
                    calling_ae,
                    now,
                    now,
                )
            return True

    def step_state(self, sop_instance_uid: str) -> str | None:
        """The state of a step; None if the step is unknown."""
        rows = self._rows("SELECT state FROM steps WHERE sop_instance_uid = ? LIMIT 1", sop_instance_uid)
        return str(rows[0][0]) if rows else None

    def change_step(self, sop_instance_uid: str, state: str, instances: Collection[str] | None, now: float) -> None:
        """Record the new state of a step; ``instances`` are those that the step made, None if the modality names
        none."""
        with self.transaction():
            self._run(
                """UPDATE steps SET state = ?, changed = ?, instances = coalesce(?, instances)
                WHERE sop_instance_uid = ?""",
                state,
                now,
                None if instances is None else json.dumps(sorted(instances)),
                sop_instance_uid,
            )

    def studies_with_steps(self) -> set[str]:
        """The open studies of which a modality reported a step."""
        rows = self._rows("SELECT study FROM studies WHERE completed IS NULL AND study IN (SELECT study FROM steps)")
        return {row[0] for row in rows}

    def has_unnamed(self, study: str) -> bool:
        """Whether a study has instances, our own results aside, that no step names."""
        rows = self._rows(
            """SELECT 1 FROM instances WHERE study = ?1 AND NOT own AND sop_instance_uid NOT IN
                (SELECT e.value FROM steps s, json_each(s.instances) e WHERE s.study = ?1) LIMIT 1""",
            study,
        )
        return bool(rows)

    def steps_of(self, study: str) -> list[Step]:
        """The steps of a study, each with the number of instances that it made and of those that we lack.

        An instance counts in whichever study it came: a step may belong to several studies.
        """
        rows = self._rows(
            """SELECT sop_instance_uid, state, json_array_length(instances),
                (SELECT count(*) FROM json_each(steps.instances) e
                 WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.sop_instance_uid = e.value)),
                changed
            FROM steps WHERE study = ? ORDER BY created""",
            study,
        )
        return [Step(*row) for row in rows]
