BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'dicom_node','m001_first','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'dicom_node','m002_profiles','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'dicom_node','m003_shadow','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'dicom_node','m004_indexes','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(5,'dicom_node','m005_retention','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(6,'dicom_node','m006_deaths','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(7,'dicom_node','m007_evidence','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(8,'dicom_node','m008_editions','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(9,'dicom_node','m009_outcomes','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(10,'dicom_node','m010_withdrawals','2026-01-01 00:00:00.000000+00:00');
INSERT INTO "_sqlite_migrations" VALUES(11,'dicom_node','m011_accepted','2026-11-30 23:57:41.499436+00:00');
INSERT INTO "_sqlite_migrations" VALUES(12,'dicom_node','m014_promised','2026-12-01 04:50:01.438188+00:00');
INSERT INTO "_sqlite_migrations" VALUES(13,'dicom_node','m015_every_edition','2026-12-01 05:27:21.511179+00:00');
CREATE TABLE accepted (
            peer TEXT NOT NULL,
            sop_class_uid TEXT NOT NULL,
            syntaxes TEXT NOT NULL,
            noted REAL NOT NULL,
            PRIMARY KEY (peer, sop_class_uid)
        ) STRICT, WITHOUT ROWID;
CREATE TABLE asks (
        transaction_uid TEXT PRIMARY KEY,
        job INTEGER NOT NULL,
        asked REAL NOT NULL,
        answered REAL,
        missing INTEGER NOT NULL DEFAULT 0,
        refusal TEXT NOT NULL DEFAULT ''
    ) STRICT;
CREATE TABLE committed (
        job INTEGER NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        PRIMARY KEY (job, sop_instance_uid)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE contradictions (
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
    ) STRICT;
CREATE TABLE "corrections" (
        site TEXT NOT NULL DEFAULT '',
        study TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        edition INTEGER NOT NULL,
        change TEXT NOT NULL CHECK (change IN ('safety', 'quality', 'unknown', 'none')),
        PRIMARY KEY (study, site, sop_instance_uid, edition)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE "instances" (
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
    ) STRICT, WITHOUT ROWID;
INSERT INTO "instances" VALUES('','1.1','1.1.1.1',1,1,1,0,'1.2.840.10008.5.1.4.1.1.1.1','1.2.840.10008.1.2.1','1.1.1','DX1',NULL,0,'spool/00/1.1.dcm',10,2.0,NULL);
INSERT INTO "instances" VALUES('','1.2','1.2.1.1',1,1,1,0,'1.2.840.10008.5.1.4.1.1.1.1','1.2.840.10008.1.2.1','1.2.1','DX1',NULL,0,'spool/00/1.2.dcm',10,2.0,NULL);
CREATE TABLE "jobs" (
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
    ) STRICT;
INSERT INTO "jobs" VALUES(1,'read','1.1/1','1.1',1,'chest','m','k','done',1,3.0,NULL,NULL,3.0,3.0,4.0,'read','',0);
INSERT INTO "jobs" VALUES(2,'send','9.1','1.1',1,'chest','pacs','k','done',1,3.0,NULL,NULL,3.0,3.0,4.0,'sent','',0);
INSERT INTO "jobs" VALUES(3,'send','9.1','1.1',1,'chest','archive','k','queued',0,3.0,NULL,NULL,3.0,NULL,NULL,'','',0);
CREATE TABLE node (id TEXT NOT NULL) STRICT;
INSERT INTO "node" VALUES('an installation');
CREATE TABLE promised (
        sop_instance_uid TEXT PRIMARY KEY,
        given REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE promises (
        id INTEGER PRIMARY KEY,
        transaction_uid TEXT NOT NULL,
        calling_ae TEXT NOT NULL,
        asked REAL NOT NULL,
        instances TEXT NOT NULL,
        UNIQUE (transaction_uid, calling_ae)
    ) STRICT;
CREATE TABLE readings (
        run_key TEXT PRIMARY KEY,
        study TEXT NOT NULL REFERENCES studies,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        digest TEXT NOT NULL,
        created REAL NOT NULL,
        reading TEXT NOT NULL
    , shadow INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "readings" VALUES('k','1.1','m','1','d',4.0,'{"model": {"name": "m", "version": "1", "digest": "d", "manufacturer": "x", "intended_use": "none", "notice": ""}, "sources": ["1.1.1.1"], "findings": [], "classes": [], "failure": "", "seconds": {"network": 0.1}, "passed_over": []}',0);
CREATE TABLE results (
        sop_instance_uid TEXT PRIMARY KEY,
        sop_class_uid TEXT NOT NULL,
        series TEXT NOT NULL,
        run_key TEXT NOT NULL REFERENCES readings,
        position INTEGER NOT NULL,
        role TEXT NOT NULL,
        file TEXT NOT NULL,
        bytes INTEGER NOT NULL
    , profile TEXT NOT NULL DEFAULT '', removed REAL) STRICT;
INSERT INTO "results" VALUES('9.1','1.2.840.10008.5.1.4.1.1.88.33','9','k',0,'sr','results/00/9.dcm',5,'',NULL);
CREATE TABLE series (
        study TEXT NOT NULL REFERENCES studies,
        series TEXT NOT NULL,
        modality TEXT NOT NULL,
        body_part TEXT NOT NULL,
        study_description TEXT NOT NULL,
        series_description TEXT NOT NULL,
        PRIMARY KEY (study, series, modality, body_part, study_description, series_description)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "series" VALUES('1.1','1.1.1','DX','CHEST','','');
INSERT INTO "series" VALUES('1.2','1.2.1','DX','CHEST','','');
CREATE TABLE steps (
        study TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
        calling_ae TEXT NOT NULL,
        created REAL NOT NULL,
        changed REAL NOT NULL,
        instances TEXT NOT NULL DEFAULT '[]',
        PRIMARY KEY (study, sop_instance_uid)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE studies (
        study TEXT PRIMARY KEY,
        revision INTEGER NOT NULL DEFAULT 1,
        first_received REAL NOT NULL,
        last_received REAL NOT NULL,
        completed REAL,
        routes TEXT NOT NULL DEFAULT '[]'
    , removed REAL, kept INTEGER NOT NULL DEFAULT 1, leftover INTEGER NOT NULL DEFAULT 0, evidence TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "studies" VALUES('1.1',1,1.0,2.0,3.0,'["chest"]',NULL,1,0,'');
INSERT INTO "studies" VALUES('1.2',1,4.0,5.0,NULL,'[]',NULL,1,0,'');
CREATE TABLE withdrawals (
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
    ) STRICT;
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX studies_open ON studies (study) WHERE completed IS NULL;
CREATE INDEX studies_by_time ON studies (last_received);
CREATE INDEX results_by_run ON results (run_key, position);
CREATE INDEX results_by_series ON results (series);
CREATE INDEX readings_by_study ON readings (study, model);
CREATE INDEX studies_kept ON studies (last_received, study) WHERE completed IS NOT NULL AND kept = 1;
CREATE INDEX studies_leftover ON studies (study) WHERE leftover = 1;
CREATE INDEX asks_by_job ON asks (job, asked);
CREATE INDEX steps_by_uid ON steps (sop_instance_uid);
CREATE INDEX steps_by_time ON steps (changed);
CREATE INDEX jobs_to_claim ON jobs (kind, due) WHERE state = 'queued';
CREATE INDEX jobs_to_claim_for ON jobs (kind, target, due) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (kind) WHERE state = 'running';
CREATE UNIQUE INDEX instances_by_uid ON instances (sop_instance_uid, site, studies_before, edition);
CREATE INDEX contradictions_by_study ON contradictions (study, sop_instance_uid);
CREATE UNIQUE INDEX contradictions_of_studies ON contradictions (other_study, study);
COMMIT;
