-- Unsigned 64-bit numbers are kept as bigint; what does not fit is refused before it comes here.

-- One row: where the journal ends, and its totals. Whoever appends updates it last and holds it until commit, so that positions have the
-- order of commits and no reader ever sees a gap that is filled later.
CREATE TABLE depin.ledger (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,
    -- Position behind the newest record that is no proof.
    facts bigint NOT NULL,
    -- Newest time of receipt, milliseconds since 1970.
    last_received bigint NOT NULL,
    proofs bigint NOT NULL,
    accepted bigint NOT NULL,
    -- Milliseconds in spans of open time that are no longer kept one by one.
    open_forgotten bigint NOT NULL
);
INSERT INTO depin.ledger (position, facts, last_received, proofs, accepted, open_forgotten) VALUES (1, 0, 0, 0, 0, 0);

-- An embedded ledger that is being copied here, or was.
CREATE TABLE depin.migration (
    -- When that ledger was made, and where its log ended.
    created bigint,
    position bigint NOT NULL,
    complete boolean NOT NULL,
    -- What was copied, once that was compared.
    records bigint,
    proofs bigint,
    files bigint,
    digest bytea
);

-- Readings that do not count, by reason code.
CREATE TABLE depin.rejected (
    reason integer PRIMARY KEY,
    readings bigint NOT NULL
);

-- The journal but for proofs: registry, tokens, confirmations, inbox, closes, results, boundaries, evidence.
CREATE TABLE depin.facts (
    position bigint PRIMARY KEY,
    kind smallint NOT NULL,
    record bytea NOT NULL
);

-- The journal's proofs, by the day (since 1970) of the journal's time: days ascend with positions.
CREATE TABLE depin.proofs (
    day integer NOT NULL,
    position bigint NOT NULL,
    received_at bigint NOT NULL,
    key bytea NOT NULL,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (day, position),
    UNIQUE (day, key, incarnation, sequence)
) PARTITION BY LIST (day);
CREATE TABLE depin.days (
    day integer PRIMARY KEY
);

-- Heads of chains: the authority for de-duplication. Locked and updated in the transaction that appends.
CREATE TABLE depin.chains (
    key bytea PRIMARY KEY,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL,
    digest bytea NOT NULL,
    -- Day of the head.
    day integer NOT NULL,
    -- The head's sequence when the newest backup began, and up to where a backup has everything.
    backing_up bigint NOT NULL DEFAULT 0,
    archived bigint NOT NULL DEFAULT 0,
    -- A conflicting proof of this incarnation is kept as evidence.
    evidence boolean NOT NULL DEFAULT false
) WITH (fillfactor = 80);
-- On which day a sequence stands: with the first of each day.
CREATE TABLE depin.chain_days (
    key bytea NOT NULL,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL,
    day integer NOT NULL,
    PRIMARY KEY (key, incarnation, sequence)
);
-- Heads that agents reported since a restore.
CREATE TABLE depin.reported (
    key bytea PRIMARY KEY,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL
);

-- Newest accepted reading by assignment and metric. Locked and updated in the transaction that appends.
CREATE TABLE depin.devices (
    device bytea PRIMARY KEY,
    marks bytea NOT NULL
) WITH (fillfactor = 80);
-- Statistics of a device's grains.
CREATE TABLE depin.grains (
    device bytea NOT NULL,
    start bigint NOT NULL,
    assignment integer NOT NULL,
    metric text NOT NULL,
    statistic bytea NOT NULL,
    PRIMARY KEY (device, start, assignment, metric)
) WITH (fillfactor = 80);
CREATE INDEX grains_start ON depin.grains (start);

-- Spans in which proofs were taken.
CREATE TABLE depin.open_spans (
    number bigint PRIMARY KEY,
    began bigint NOT NULL,
    ended bigint NOT NULL
);

-- Frozen statistics and results, in chunks.
CREATE TABLE depin.files (
    name text PRIMARY KEY,
    bytes bigint NOT NULL
);
CREATE TABLE depin.file_chunks (
    name text NOT NULL REFERENCES depin.files (name) ON DELETE CASCADE,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (name, number)
);
ALTER TABLE depin.file_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- What gateways tell each other of who was heard: lost with a crash, and said again.
CREATE UNLOGGED TABLE depin.gateways (
    gateway bytea PRIMARY KEY,
    alive bigint NOT NULL
);
CREATE UNLOGGED TABLE depin.presence (
    gateway bytea NOT NULL,
    kind smallint NOT NULL,
    id bytea NOT NULL,
    told bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (gateway, kind, id)
) WITH (fillfactor = 80);
CREATE INDEX presence_told ON depin.presence (told);
