-- jobs.db as version 1 of its schema made it. Never changes.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('queued','running','stopping','succeeded','failed','cancelled','paused')),
    reason TEXT NOT NULL DEFAULT '',
    want TEXT CHECK (want IN ('cancel','cancel-now','pause')),
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    attempt INTEGER NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0,
    lane TEXT NOT NULL,
    step TEXT,
    steps_total INTEGER NOT NULL,
    steps_done INTEGER NOT NULL DEFAULT 0,
    recipe_sha256 TEXT NOT NULL,
    source_path TEXT,
    fresh INTEGER NOT NULL DEFAULT 0,
    passed INTEGER NOT NULL DEFAULT 0,
    notified INTEGER NOT NULL DEFAULT 1,
    error TEXT,
    last_done REAL,
    last_total REAL,
    last_unit TEXT,
    last_loss REAL,
    last_rate REAL,
    last_eta_s REAL,
    last_memory_bytes INTEGER,
    last_message TEXT,
    last_event_at REAL
);
CREATE INDEX jobs_by_state ON jobs(state, seq);
CREATE INDEX jobs_untold ON jobs(seq) WHERE notified=0;
CREATE TABLE steps (
    job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    ord INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    lane TEXT NOT NULL,
    shares INTEGER NOT NULL DEFAULT 0,
    estimate_bytes INTEGER,
    declared INTEGER NOT NULL DEFAULT 0,
    device TEXT,
    threads INTEGER NOT NULL DEFAULT 0,
    signature TEXT,
    needs TEXT NOT NULL,
    require TEXT NOT NULL,
    point TEXT,
    params TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    memo_key TEXT,
    memo_of TEXT,
    started REAL,
    ended REAL,
    outputs TEXT NOT NULL DEFAULT '{}',
    report TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (job_id, name)
) WITHOUT ROWID;
CREATE TABLE attempts (
    job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    step TEXT NOT NULL,
    lane TEXT NOT NULL,
    state TEXT NOT NULL,
    began REAL,
    ended REAL,
    exit TEXT,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;
CREATE TABLE memo (
    key TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    step TEXT NOT NULL,
    outputs TEXT NOT NULL,
    report TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX memo_by_job ON memo(job_id);
CREATE TABLE peaks (
    signature TEXT NOT NULL,
    device TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    seconds REAL NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (signature, device)
) WITHOUT ROWID;
INSERT INTO jobs (seq,id,name,kind,state,created,lane,step,steps_total,recipe_sha256) VALUES (1,'000001-aaaa','old','probe','succeeded',1700000000.0,'cpu','probe',1,'00');
INSERT INTO steps (job_id,name,ord,kind,state,lane,needs,require,params) VALUES ('000001-aaaa','probe',0,'probe','succeeded','cpu','[]','{}','{"steps": 3}');
INSERT INTO jobs (seq,id,name,kind,state,created,lane,step,steps_total,recipe_sha256) VALUES (2,'000002-bbbb','old','probe','queued',1700000000.0,'cpu','probe',1,'00');
INSERT INTO steps (job_id,name,ord,kind,state,lane,needs,require,params) VALUES ('000002-bbbb','probe',0,'probe','queued','cpu','[]','{}','{"steps": 3}');
INSERT INTO jobs (seq,id,name,kind,state,created,lane,step,steps_total,recipe_sha256) VALUES (3,'000003-cccc','old','probe','queued',1700000000.0,'cpu','probe',1,'00');
INSERT INTO steps (job_id,name,ord,kind,state,lane,needs,require,params) VALUES ('000003-cccc','probe',0,'probe','queued','cpu','[]','{}','{"steps": 3}');
