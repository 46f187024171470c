-- Pause, resume, snapshot and fork.

ALTER TABLE sandboxes
    -- Names the newest wish for a pause or resume towards the host: the generation that wish was written with.
    ADD COLUMN operation       bigint NOT NULL DEFAULT 0,
    -- Crashed, but the host still has its disk: it can be booted again.
    ADD COLUMN disk_kept       boolean NOT NULL DEFAULT false,
    -- What it was made from, beyond the template's name; fixed at birth, since a template may be deleted before its host was asked.
    ADD COLUMN snapshot_id     uuid,
    ADD COLUMN default_user    text NOT NULL DEFAULT '',
    ADD COLUMN default_env     jsonb NOT NULL DEFAULT '{}',
    -- The snapshot under way, and where the sandbox goes back to after it.
    ADD COLUMN capture_id      uuid,
    ADD COLUMN capture_origin  text CHECK (capture_origin IN ('running', 'paused')),
    -- Forked from this one. fork_id names the fork until its host has confirmed it.
    ADD COLUMN parent_id       uuid,
    ADD COLUMN fork_id         uuid;
DROP INDEX sandboxes_due;
CREATE INDEX sandboxes_due ON sandboxes (state, next_attempt_at)
    WHERE state IN ('starting', 'stopping', 'pausing', 'resuming');
CREATE INDEX sandboxes_fork ON sandboxes (fork_id) WHERE fork_id IS NOT NULL;

ALTER TABLE templates
    -- pending: holds its name while the host writes the snapshot; seen by nobody.
    ADD COLUMN state     text NOT NULL DEFAULT 'ready' CHECK (state IN ('pending', 'ready')),
    -- The host whose disk holds a snapshot.
    ADD COLUMN host_id   uuid REFERENCES hosts (id),
    ADD COLUMN disk_mib  integer;

-- Effects on hosts that belong to no sandbox's state: each is written in the transaction that needs it and removed when it is done.
-- capture: write the snapshot of a pending template. discard: remove a snapshot's files. fork: make children.
CREATE TABLE host_jobs (
    kind             text NOT NULL CHECK (kind IN ('capture', 'discard', 'fork')),
    -- The snapshot's or fork's.
    id               uuid NOT NULL,
    host_id          uuid NOT NULL REFERENCES hosts (id),
    -- The source, of capture and fork.
    sandbox_id       uuid,
    -- Not over before this: what it undoes may still be under way.
    repeat_until     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    lease_owner      uuid,
    lease_until      timestamptz,
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id)
);
CREATE INDEX host_jobs_due ON host_jobs (kind, next_attempt_at);
