"""The changes of the tables from the editions of instances on. A further one is added at the end.

A migration that is there is never edited.
"""

from __future__ import annotations

from sqlite_utils import Database

from dicom_node.index.migrations.m001_to_m007 import SCHEMA


@SCHEMA()
def m008_editions(db: Database) -> None:
    """An instance that comes again corrected has a new edition, which takes the place of the one before."""
    db.execute("ALTER TABLE instances ADD COLUMN edition INTEGER NOT NULL DEFAULT 1")


@SCHEMA()
def m009_outcomes(db: Database) -> None:
    """How a job ended is a value of its own; the kinds of jobs are no part of the tables any more."""
    for statement in _M009:
        db.execute(statement)


# Before this version the beginning of the reason told how a job ended. A new kind of job is a row of
# `job_kinds.JOB_KINDS`: with no CHECK that lists the kinds, the table need not be made anew for it.
_M009 = (
    """CREATE TABLE jobs_new (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        study TEXT REFERENCES studies,
        revision INTEGER NOT NULL,
        route TEXT NOT NULL,
        target TEXT NOT NULL,
        run_key TEXT,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL,
        lease_until REAL,
        token TEXT,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        outcome TEXT NOT NULL DEFAULT '',
        reason TEXT NOT NULL DEFAULT '',
        deaths INTEGER NOT NULL DEFAULT 0,
        UNIQUE (study, kind, subject, target)
    ) STRICT""",
    """INSERT INTO jobs_new SELECT id, kind, subject, study, revision, route, target, run_key, state, attempts, due,
        lease_until, token, created, started, finished,
        CASE
            WHEN state IN ('done', 'running') AND reason LIKE 'not sent: superseded by%' THEN 'superseded'
            WHEN state = 'failed' THEN 'failed'
            WHEN state != 'done' THEN ''
            WHEN kind = 'send' THEN iif(reason LIKE 'not taken:%', 'not taken', 'sent')
            WHEN kind = 'commit' THEN
                CASE WHEN reason = '' THEN 'committed'
                    WHEN reason = 'nothing is stored there' THEN 'nothing to commit' ELSE 'waived' END
            WHEN kind = 'promise' THEN 'answered'
            WHEN run_key IS NOT NULL THEN 'read'
            ELSE iif(reason LIKE 'not read: superseded by%', 'superseded', 'nothing to read')
        END,
        reason, deaths FROM jobs""",
    "DROP TABLE jobs",
    "ALTER TABLE jobs_new RENAME TO jobs",
    "CREATE INDEX jobs_to_claim ON jobs (kind, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_to_claim_for ON jobs (kind, target, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (kind) WHERE state = 'running'",
)


@SCHEMA()
def m010_withdrawals(db: Database) -> None:
    """Results are rejected at a destination (IOCM), each once; what a correction of an instance changed is known."""
    for statement in _M010:
        db.execute(statement)


# A withdrawal is of the results that one destination has of a run and profile. note is the key object that names them,
# once it is made; successor is the profile of the results that take their place, those of the job's run.
_M010 = (
    """CREATE TABLE withdrawals (
        id INTEGER PRIMARY KEY,
        study TEXT NOT NULL REFERENCES studies,
        run_key TEXT NOT NULL,
        profile TEXT NOT NULL,
        target TEXT NOT NULL,
        reason TEXT NOT NULL CHECK (reason IN ('safety', 'quality')),
        decided REAL NOT NULL,
        successor TEXT NOT NULL,
        note TEXT,
        objects INTEGER NOT NULL DEFAULT 0,
        UNIQUE (study, run_key, profile, target, reason)
    ) STRICT""",
    """CREATE TABLE corrections (
        sop_instance_uid TEXT NOT NULL,
        edition INTEGER NOT NULL,
        safety INTEGER NOT NULL,
        PRIMARY KEY (sop_instance_uid, edition)
    ) STRICT, WITHOUT ROWID""",
)


@SCHEMA()
def m011_accepted(db: Database) -> None:
    """What a destination accepted when we last called it: the transfer syntaxes (JSON) of each SOP class."""
    db.execute(
        """CREATE TABLE accepted (
            peer TEXT NOT NULL,
            sop_class_uid TEXT NOT NULL,
            syntaxes TEXT NOT NULL,
            noted REAL NOT NULL,
            PRIMARY KEY (peer, sop_class_uid)
        ) STRICT, WITHOUT ROWID"""
    )


@SCHEMA()
def m014_promised(db: Database) -> None:
    """Instances that this node has committed to keep, and when it last did; retention asks for them."""
    for statement in _M014:
        db.execute(statement)


# An earlier version did not record what it had committed to: every instance that it was asked for counts.
_M014 = (
    """CREATE TABLE promised (
        sop_instance_uid TEXT PRIMARY KEY,
        given REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO promised SELECT e.key, max(p.asked) FROM promises p, json_each(p.instances) e
        WHERE e.key IN (SELECT sop_instance_uid FROM instances) GROUP BY e.key""",
)


@SCHEMA()
def m015_every_edition(db: Database) -> None:
    """Every edition of an instance is a row, also under several studies; contradictions wait for an administrator."""
    for statement in _M015:
        db.execute(statement)


# The key is (site, study, SOP instance, edition). The study stands first in it, so that the instances of a study are on
# neighbouring pages: the table needs no index of its own by study, and a received instance writes one page less.
# newest is 1 for the edition that is read. meaning is the first edition that says the same (another transfer syntax
# of the same image). studies_before counts the studies under which the SOP Instance UID came before: 0 nearly always,
# so that a UID that comes again is found by the insert itself. peer is the name in the configuration of the peer that
# sent it, '' for an unknown caller, NULL where an earlier version did not record it.
_M015 = (
    """CREATE TABLE instances_new (
        site TEXT NOT NULL DEFAULT '',
        study TEXT NOT NULL REFERENCES studies,
        sop_instance_uid TEXT NOT NULL,
        edition INTEGER NOT NULL DEFAULT 1,
        newest INTEGER NOT NULL DEFAULT 1,
        meaning INTEGER NOT NULL DEFAULT 1,
        studies_before INTEGER NOT NULL DEFAULT 0,
        sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL,
        series TEXT NOT NULL,
        calling_ae TEXT NOT NULL,
        peer TEXT,
        own INTEGER NOT NULL,
        file TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        received REAL NOT NULL,
        removed REAL,
        PRIMARY KEY (study, site, sop_instance_uid, edition)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO instances_new SELECT '', study, sop_instance_uid, edition, 1, edition, 0, sop_class_uid,
        transfer_syntax_uid, series, calling_ae, NULL, own, file, bytes, received, removed FROM instances
        ORDER BY study, sop_instance_uid""",
    """CREATE TABLE corrections_new (
        site TEXT NOT NULL DEFAULT '',
        study TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        edition INTEGER NOT NULL,
        change TEXT NOT NULL CHECK (change IN ('safety', 'quality', 'unknown', 'none')),
        PRIMARY KEY (study, site, sop_instance_uid, edition)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO corrections_new SELECT '', i.study, c.sop_instance_uid, c.edition, iif(c.safety, 'safety', 'quality')
        FROM corrections c JOIN instances i ON i.sop_instance_uid = c.sop_instance_uid""",
    "DROP TABLE corrections",
    "ALTER TABLE corrections_new RENAME TO corrections",
    "DROP TABLE instances",
    "ALTER TABLE instances_new RENAME TO instances",
    "CREATE UNIQUE INDEX instances_by_uid ON instances (sop_instance_uid, site, studies_before, edition)",
    # A contradiction is open while its row is there. file is NULL where the image is stored as any other.
    """CREATE TABLE contradictions (
        id INTEGER PRIMARY KEY,
        site TEXT NOT NULL DEFAULT '',
        study TEXT NOT NULL REFERENCES studies,
        kind TEXT NOT NULL CHECK (kind IN ('not authorized', 'two studies')),
        sop_instance_uid TEXT NOT NULL,
        other_study TEXT,
        change TEXT NOT NULL DEFAULT '',
        compared INTEGER NOT NULL DEFAULT 0,
        calling_ae TEXT NOT NULL,
        peer TEXT,
        instance TEXT NOT NULL DEFAULT '',
        file TEXT,
        bytes INTEGER NOT NULL DEFAULT 0,
        instances INTEGER NOT NULL DEFAULT 1,
        received REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX contradictions_by_study ON contradictions (study, sop_instance_uid)",
    # One row for each two studies, however many UIDs they have in common; other_study is NULL for an image in
    # quarantine.
    "CREATE UNIQUE INDEX contradictions_of_studies ON contradictions (other_study, study)",
)
