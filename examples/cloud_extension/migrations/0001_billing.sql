-- The distribution's own tables. They name teams and users by id and reference no core table: a sign-up hook runs before the
-- core's rows are committed.
CREATE TABLE billing_accounts (
    team_id        uuid PRIMARY KEY,
    owner_id       uuid NOT NULL,
    email          text NOT NULL,
    sandboxes_max  bigint NOT NULL DEFAULT 2,
    vcpus_max      bigint,
    memory_mib_max bigint,
    last_login_at  timestamptz,
    closed_at      timestamptz,
    -- Sandboxes created so far, as the worker counted them last.
    created_total  bigint NOT NULL DEFAULT 0
);
CREATE INDEX billing_accounts_owner ON billing_accounts (owner_id);

CREATE TABLE billing_events (
    event_id     text PRIMARY KEY,
    team_id      uuid NOT NULL,
    sandbox_id   text NOT NULL,
    kind         text NOT NULL,
    occurred_at  timestamptz NOT NULL
);
CREATE INDEX billing_events_team ON billing_events (team_id, kind);
