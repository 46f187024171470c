-- Teams, API keys, hosts, templates and sandboxes.
-- Later migrations only add: old code must run on the new schema for one release.

CREATE TABLE teams (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    slug        text NOT NULL UNIQUE,
    is_byoc     boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);

-- Owns the templates everybody can use; has no members.
INSERT INTO teams (id, name, slug) VALUES ('00000000-0000-0000-0000-000000000000', 'Platform', 'platform');

CREATE TABLE team_api_keys (
    id          uuid PRIMARY KEY,
    team_id     uuid NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name        text NOT NULL,
    key_hash    text NOT NULL UNIQUE,
    key_prefix  text NOT NULL,
    created_by  uuid,
    created_at  timestamptz NOT NULL DEFAULT now(),
    last_used   timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX team_api_keys_team ON team_api_keys (team_id);

CREATE TABLE hosts (
    id              uuid PRIMARY KEY,
    type            text NOT NULL DEFAULT 'regular' CHECK (type IN ('regular', 'byoc')),
    team_id         uuid REFERENCES teams (id),
    address         text NOT NULL UNIQUE,
    -- pending: never heard of. unreachable: silent for too long.
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'online', 'unreachable', 'draining', 'offline')),
    agent_version   text NOT NULL DEFAULT '',
    vmm             text NOT NULL DEFAULT '',
    vmm_version     text NOT NULL DEFAULT '',
    acceleration    text NOT NULL DEFAULT '',
    cpu_cores       integer NOT NULL DEFAULT 0,
    memory_mib      bigint NOT NULL DEFAULT 0,
    disk_total_mib  bigint NOT NULL DEFAULT 0,
    disk_free_mib   bigint NOT NULL DEFAULT 0,
    templates       text[] NOT NULL DEFAULT '{}',
    last_seen_at    timestamptz,
    -- The control plane that listens to this host now.
    watch_owner     uuid,
    watch_until     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE templates (
    id            uuid PRIMARY KEY,
    team_id       uuid NOT NULL REFERENCES teams (id),
    name          text NOT NULL,
    type          text NOT NULL DEFAULT 'base' CHECK (type IN ('base', 'snapshot')),
    vcpus         integer,
    memory_mib    integer,
    size_bytes    bigint NOT NULL DEFAULT 0,
    default_user  text NOT NULL DEFAULT '',
    default_env   jsonb NOT NULL DEFAULT '{}',
    metadata      jsonb NOT NULL DEFAULT '{}',
    protected     boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (team_id, name)
);
-- The platform's own come with the first host that reports their images.

CREATE TABLE sandboxes (
    id                 uuid PRIMARY KEY,
    team_id            uuid NOT NULL REFERENCES teams (id),
    host_id            uuid REFERENCES hosts (id),
    template           text NOT NULL,
    template_id        uuid,
    -- What is: changed by compare-and-set on generation only.
    state              text NOT NULL CHECK (state IN ('starting', 'running', 'pausing', 'paused', 'snapshotting',
                                                      'resuming', 'stopping', 'missing', 'stopped', 'error')),
    generation         bigint NOT NULL DEFAULT 1,
    -- What the user wants.
    desired            text NOT NULL CHECK (desired IN ('running', 'paused', 'stopped')),
    vcpus              integer NOT NULL,
    memory_mib         integer NOT NULL,
    disk_mib           integer NOT NULL,
    timeout_sec        integer NOT NULL,
    metadata           jsonb NOT NULL DEFAULT '{}',
    system_metadata    jsonb NOT NULL DEFAULT '{}',
    -- Newest report of the host that was taken; older ones are ignored.
    report_generation  bigint NOT NULL DEFAULT 0,
    error              text,
    error_code         text,
    created_by_key     uuid,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    last_active_at     timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    -- Work on a wish that is not reality yet: who does it, until when, and when to try again.
    lease_owner        uuid,
    lease_until        timestamptz,
    attempts           integer NOT NULL DEFAULT 0,
    next_attempt_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sandboxes_team_listed ON sandboxes (team_id, created_at DESC)
    WHERE state NOT IN ('stopped', 'error');
CREATE INDEX sandboxes_host_living ON sandboxes (host_id)
    WHERE state NOT IN ('stopped', 'error');
CREATE INDEX sandboxes_due ON sandboxes (state, next_attempt_at)
    WHERE state IN ('starting', 'stopping');
