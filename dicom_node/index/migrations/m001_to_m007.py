"""The tables as first released, and the changes up to procedure steps and storage commitment.

A migration that is there is never edited.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

SCHEMA = Migrations("dicom_node")


@SCHEMA()
def m001_first(db: Database) -> None:
    """The tables as first released."""
    for statement in _M001:
        db.execute(statement)


_M001 = (
    "CREATE TABLE node (id TEXT NOT NULL) STRICT",
    """CREATE TABLE studies (
        study TEXT PRIMARY KEY,
        revision INTEGER NOT NULL DEFAULT 1,
        first_received REAL NOT NULL,
        last_received REAL NOT NULL,
        completed REAL,
        routes TEXT NOT NULL DEFAULT '[]'
    ) STRICT""",
    "CREATE INDEX studies_open ON studies (study) WHERE completed IS NULL",
    "CREATE INDEX studies_by_time ON studies (last_received)",
    """CREATE TABLE series (
        study TEXT NOT NULL REFERENCES studies,
        series TEXT NOT NULL,
        modality TEXT NOT NULL,
        body_part TEXT NOT NULL,
        study_description TEXT NOT NULL,
        series_description TEXT NOT NULL,
        PRIMARY KEY (study, series, modality, body_part, study_description, series_description)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE instances (
        sop_instance_uid TEXT PRIMARY KEY,
        sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL,
        study TEXT NOT NULL REFERENCES studies,
        series TEXT NOT NULL,
        calling_ae TEXT NOT NULL,
        own INTEGER NOT NULL,
        file TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        received REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX instances_by_study ON instances (study, series)",
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('read', 'send')),
        subject TEXT NOT NULL,
        study TEXT NOT NULL REFERENCES studies,
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
        reason TEXT NOT NULL DEFAULT '',
        UNIQUE (kind, subject, target)
    ) STRICT""",
    "CREATE INDEX jobs_to_claim ON jobs (kind, target, state, due)",
    "CREATE INDEX jobs_by_study ON jobs (study, revision, kind)",
    "CREATE INDEX jobs_by_run ON jobs (run_key, kind)",
    """CREATE TABLE readings (
        run_key TEXT PRIMARY KEY,
        study TEXT NOT NULL REFERENCES studies,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        digest TEXT NOT NULL,
        created REAL NOT NULL,
        reading TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE results (
        sop_instance_uid TEXT PRIMARY KEY,
        sop_class_uid TEXT NOT NULL,
        series TEXT NOT NULL,
        run_key TEXT NOT NULL REFERENCES readings,
        position INTEGER NOT NULL,
        role TEXT NOT NULL,
        file TEXT NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX results_by_run ON results (run_key, position)",
    "CREATE INDEX results_by_series ON results (series)",
)


@SCHEMA()
def m002_profiles(db: Database) -> None:
    """Results are made per destination: each says for which settings (`config.Profile.digest`); older ones for all."""
    db.execute("ALTER TABLE results ADD COLUMN profile TEXT NOT NULL DEFAULT ''")


@SCHEMA()
def m003_shadow(db: Database) -> None:
    """Models may read in shadow: a kind of job of its own, which no statement about the others sees, and a mark."""
    for statement in _M003:
        db.execute(statement)


# SQLite cannot alter a CHECK: the table is made anew and takes the old one's rows, ids and indexes.
_M003 = (
    """CREATE TABLE jobs_new (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('read', 'send', 'shadow')),
        subject TEXT NOT NULL,
        study TEXT NOT NULL REFERENCES studies,
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
        reason TEXT NOT NULL DEFAULT '',
        UNIQUE (kind, subject, target)
    ) STRICT""",
    """INSERT INTO jobs_new SELECT id, kind, subject, study, revision, route, target, run_key, state, attempts, due,
        lease_until, token, created, started, finished, reason FROM jobs""",
    "DROP TABLE jobs",
    "ALTER TABLE jobs_new RENAME TO jobs",
    "CREATE INDEX jobs_to_claim ON jobs (kind, target, state, due)",
    "CREATE INDEX jobs_by_study ON jobs (study, revision, kind)",
    "CREATE INDEX jobs_by_run ON jobs (run_key, kind)",
    "CREATE INDEX jobs_open ON jobs (kind, state) WHERE state IN ('queued', 'running')",
    "ALTER TABLE readings ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX readings_by_model ON readings (model, study)",
)


@SCHEMA()
def m004_indexes(db: Database) -> None:
    """A full index answers as an empty one does: fewer indexes, and those of what waits hold nothing else."""
    for statement in _M004:
        db.execute(statement)


# Jobs were found by an index of all of them, and where no target was asked for by their kind alone: through every one
# ever done. Now what is queued has one in the order in which it is due, and so has what is running, one job a worker.
# Every index of all jobs or readings is a page, anywhere in it, that each new one writes. So there are fewer, and they
# begin with the study, which has its jobs on one page: what a subject is belongs to one study, so it is unique as ever.
_M004 = (
    """CREATE TABLE jobs_new (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('read', 'send', 'shadow')),
        subject TEXT NOT NULL,
        study TEXT NOT NULL REFERENCES studies,
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
        reason TEXT NOT NULL DEFAULT '',
        UNIQUE (study, kind, subject, target)
    ) STRICT""",
    """INSERT INTO jobs_new SELECT id, kind, subject, study, revision, route, target, run_key, state, attempts, due,
        lease_until, token, created, started, finished, reason FROM jobs""",
    "DROP TABLE jobs",
    "ALTER TABLE jobs_new RENAME TO jobs",
    "CREATE INDEX jobs_to_claim ON jobs (kind, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_to_claim_for ON jobs (kind, target, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (kind) WHERE state = 'running'",
    "DROP INDEX readings_by_model",
    "CREATE INDEX readings_by_study ON readings (study, model)",
)


@SCHEMA()
def m005_retention(db: Database) -> None:
    """Files may be removed while their rows stay: when that was, who still has any, and where it is not yet done."""
    for statement in _M005:
        db.execute(statement)


# studies.removed is when retention last removed files of a study; kept is whether it has others, so that it is looked
# at; leftover is 1 while files may be there that are recorded as removed.
_M005 = (
    "ALTER TABLE instances ADD COLUMN removed REAL",
    "ALTER TABLE results ADD COLUMN removed REAL",
    "ALTER TABLE studies ADD COLUMN removed REAL",
    "ALTER TABLE studies ADD COLUMN kept INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE studies ADD COLUMN leftover INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX studies_kept ON studies (last_received, study) WHERE completed IS NOT NULL AND kept = 1",
    "CREATE INDEX studies_leftover ON studies (study) WHERE leftover = 1",
)


@SCHEMA()
def m006_deaths(db: Database) -> None:
    """How often the node died while a job ran is counted apart from its attempts, which came to an end."""
    db.execute("ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0")


@SCHEMA()
def m007_evidence(db: Database) -> None:
    """Storage commitment, asked for and given, and what modalities say of their procedure steps."""
    for statement in _M007:
        db.execute(statement)


# A promise is given for instances of any study, or of none that we know: its job may have no study.
_M007 = (
    """CREATE TABLE jobs_new (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('read', 'send', 'shadow', 'commit', 'promise')),
        subject TEXT NOT NULL,
        study TEXT REFERENCES studies CHECK (study IS NOT NULL OR kind = 'promise'),
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
        reason TEXT NOT NULL DEFAULT '',
        deaths INTEGER NOT NULL DEFAULT 0,
        UNIQUE (study, kind, subject, target)
    ) STRICT""",
    """INSERT INTO jobs_new SELECT id, kind, subject, study, revision, route, target, run_key, state, attempts, due,
        lease_until, token, created, started, finished, reason, deaths FROM jobs""",
    "DROP TABLE jobs",
    "ALTER TABLE jobs_new RENAME TO jobs",
    "CREATE INDEX jobs_to_claim ON jobs (kind, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_to_claim_for ON jobs (kind, target, due) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (kind) WHERE state = 'running'",
    """CREATE TABLE asks (
        transaction_uid TEXT PRIMARY KEY,
        job INTEGER NOT NULL,
        asked REAL NOT NULL,
        answered REAL,
        missing INTEGER NOT NULL DEFAULT 0,
        refusal TEXT NOT NULL DEFAULT ''
    ) STRICT""",
    "CREATE INDEX asks_by_job ON asks (job, asked)",
    """CREATE TABLE committed (
        job INTEGER NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        PRIMARY KEY (job, sop_instance_uid)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE promises (
        id INTEGER PRIMARY KEY,
        transaction_uid TEXT NOT NULL,
        calling_ae TEXT NOT NULL,
        asked REAL NOT NULL,
        instances TEXT NOT NULL,
        UNIQUE (transaction_uid, calling_ae)
    ) STRICT""",
    """CREATE TABLE steps (
        study TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
        calling_ae TEXT NOT NULL,
        created REAL NOT NULL,
        changed REAL NOT NULL,
        instances TEXT NOT NULL DEFAULT '[]',
        PRIMARY KEY (study, sop_instance_uid)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX steps_by_uid ON steps (sop_instance_uid)",
    "CREATE INDEX steps_by_time ON steps (changed)",
    "ALTER TABLE studies ADD COLUMN evidence TEXT NOT NULL DEFAULT ''",
)
