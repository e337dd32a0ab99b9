-- A platform's file as version 0.1.0 wrote it first: never changed, so that such files can always be opened.
BEGIN TRANSACTION;
CREATE TABLE anchors (
    merchant TEXT NOT NULL,
    ledger TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    time TEXT NOT NULL,
    PRIMARY KEY (merchant, ledger)
);
CREATE TABLE audiences (
    offer TEXT NOT NULL REFERENCES offers (id),
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (offer, fingerprint)
);
CREATE TABLE decisions (
    offer TEXT NOT NULL REFERENCES offers (id),
    merchant TEXT NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    time TEXT NOT NULL,
    PRIMARY KEY (offer, merchant)
);
CREATE TABLE merchants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    public_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    node_id TEXT,
    added TEXT NOT NULL,
    removed TEXT
);
INSERT INTO "merchants" VALUES(1,'bakery','ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBHcCsc5oUkhFPjrxDUNdMoIO3cXIZ6TBrnYSTb2LHO+6pJhKFiZ7gfip2DNYu3PHtbg9VjlfRkvb1TVO0+TABJm0lmNnMoyEuUCIpVXPMlaYsAV6O+Z0IOoBjNmslPM2sg==','SHA256:Ye1bxHdcc3w4Enfyu8njpiZ5VibrYrDdBuEM6x4vKpQ',NULL,'2026-11-22T18:18:58.662543+00:00',NULL);
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    epsilon REAL NOT NULL,
    epsilon_two_merchants REAL NOT NULL,
    delta REAL NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    init_fingerprint TEXT NOT NULL,
    parent INTEGER REFERENCES models (id),
    manifest BLOB,
    card_file TEXT
);
INSERT INTO "models" VALUES(1,1,'/srv/runs/tiny/model.safetensors','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1.5,2.5,0.001,'d65df2681be101727f3d4f900f5f917e63efc7ab321bb0b608b148e577e638e7','0000000000000000000000000000000000000000000000000000000000000000',NULL,X'7369676E65642031','/srv/runs/tiny/model_card.md');
INSERT INTO "models" VALUES(2,1,'/srv/runs/next/model.safetensors','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1.5,2.5,0.001,'d65df2681be101727f3d4f900f5f917e63efc7ab321bb0b608b148e577e638e7','0000000000000000000000000000000000000000000000000000000000000000',1,X'7369676E65642032','/srv/runs/next/model_card.md');
CREATE TABLE offers (
    id TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,
    plan_id TEXT NOT NULL,
    data BLOB NOT NULL,
    opened TEXT NOT NULL,
    closed TEXT
);
CREATE TABLE refusals (
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    code TEXT NOT NULL,
    merchants INTEGER NOT NULL,
    PRIMARY KEY (round_id, code)
);
INSERT INTO "refusals" VALUES(1,'budget',1);
CREATE TABLE rejections (
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    node TEXT NOT NULL,
    code TEXT NOT NULL,
    merchant TEXT,
    PRIMARY KEY (round_id, node)
);
INSERT INTO "rejections" VALUES(1,'18446744073709551613','norm','grocer');
CREATE TABLE rounds (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    round INTEGER NOT NULL,
    cohort INTEGER NOT NULL,
    completions INTEGER NOT NULL,
    void INTEGER NOT NULL,
    seconds REAL NOT NULL,
    norm REAL NOT NULL,
    merchants TEXT NOT NULL DEFAULT '[]',
    checkpoint TEXT
);
INSERT INTO "rounds" VALUES(1,1,1,4,2,0,2.5,0.5,'["bakery", "florist"]','1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO "rounds" VALUES(2,1,2,4,2,0,1.5,0.5,'["bakery", "florist"]','2222222222222222222222222222222222222222222222222222222222222222');
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    plan TEXT NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    first_round INTEGER NOT NULL,
    started TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'failed'))
);
INSERT INTO "runs" VALUES(1,'{"algorithm":"fedsgd","answer_every_seconds":0.0,"cutoffs":["2024-06-01"],"declared_customers":100,"delta":0.001,"dp":{"max_grad_norm":1.0,"noise_multiplier":1.0,"num_steps":1,"sample_rate":0.5},"features":{"horizon_days":28,"sequence_length":4},"holdout_start":"2024-07-01","init_fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","local_learning_rate":1.0,"model":{"encoder":"mlp","hidden":[4],"trainable":"readout"},"nominal_batch_size":10.0,"plan_id":"tiny","rounds":3,"secure_sum":null,"server":{"aggregation":"mean","averaging":0.0,"final_learning_rate":1.0,"learning_rate":1.0,"min_completions":1,"momentum":0.0,"optimizer":"momentum","round_timeout_seconds":5.0},"trust":"local","update_clip_norm":1000.0,"version":2}','d65df2681be101727f3d4f900f5f917e63efc7ab321bb0b608b148e577e638e7',1,'2026-11-22T18:18:58+00:00','finished');
CREATE TABLE serials (serial INTEGER PRIMARY KEY AUTOINCREMENT, given TEXT NOT NULL);
CREATE UNIQUE INDEX active_name ON merchants (name) WHERE removed IS NULL;
CREATE UNIQUE INDEX active_key ON merchants (fingerprint) WHERE removed IS NULL;
DELETE FROM "sqlite_sequence";
COMMIT;
