-- People, their membership in teams, sessions, keys, what they did, and how often they may try.

CREATE TABLE users (
    id                  uuid PRIMARY KEY,
    -- In lower case; stays taken while a deleted account is kept.
    email               text NOT NULL UNIQUE CHECK (email = lower(email)),
    name                text NOT NULL,
    -- Argon2id in PHC form; none for people who log in by a provider only.
    password_hash       text,
    -- inactive: signed up, e-mail not confirmed. deleted: kept for a while, then purged.
    status              text NOT NULL CHECK (status IN ('inactive', 'active', 'disabled', 'deleted')),
    is_admin            boolean NOT NULL DEFAULT false,
    -- Id its first team will have: fixed at sign-up, so that an activation tried twice means the same team.
    first_team_id       uuid NOT NULL,
    -- Grows whenever something a cached session says may have become wrong.
    session_generation  bigint NOT NULL DEFAULT 1,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    deleted_at          timestamptz
);
CREATE INDEX users_deleted ON users (deleted_at) WHERE status = 'deleted';

CREATE TABLE team_members (
    team_id     uuid NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    user_id     uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role        text NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    -- The team a login begins in.
    is_default  boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX team_members_user ON team_members (user_id);
CREATE UNIQUE INDEX team_members_one_owner ON team_members (team_id) WHERE role = 'owner';

CREATE TABLE sessions (
    -- SHA-256 of the cookie's value, hex.
    id            text PRIMARY KEY,
    user_id       uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    team_id       uuid REFERENCES teams (id) ON DELETE SET NULL,
    user_agent    text NOT NULL DEFAULT '',
    ip_address    text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expired ON sessions (expires_at);

-- Single-use tokens sent by mail.
CREATE TABLE account_tokens (
    hash        text PRIMARY KEY,
    user_id     uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    purpose     text NOT NULL CHECK (purpose IN ('activation', 'password_reset')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX account_tokens_user ON account_tokens (user_id, purpose);
CREATE INDEX account_tokens_expired ON account_tokens (expires_at);

CREATE TABLE oauth_providers (
    provider     text NOT NULL,
    provider_id  text NOT NULL,
    user_id      uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    email        text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_id),
    UNIQUE (user_id, provider)
);

-- Round trips through a provider that are under way; taken once.
CREATE TABLE oauth_states (
    -- SHA-256 of the state parameter, hex.
    hash          text PRIMARY KEY,
    -- SHA-256 of the cookie that binds it to one browser, hex.
    browser_hash  text NOT NULL,
    provider      text NOT NULL,
    intent        text NOT NULL CHECK (intent IN ('login', 'signup', 'link')),
    link_user_id  uuid REFERENCES users (id) ON DELETE CASCADE,
    -- The session that asked for a link; only it may finish.
    session_id    text,
    pkce_verifier text NOT NULL,
    expires_at    timestamptz NOT NULL
);
CREATE INDEX oauth_states_expired ON oauth_states (expires_at);

-- Logins of the command line that wait for a person's approval in the browser.
CREATE TABLE device_logins (
    hash        text PRIMARY KEY,
    user_code   text NOT NULL UNIQUE,
    client      text NOT NULL,
    user_id     uuid REFERENCES users (id) ON DELETE CASCADE,
    team_id     uuid REFERENCES teams (id) ON DELETE CASCADE,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX device_logins_expired ON device_logins (expires_at);

ALTER TABLE team_api_keys
    ADD COLUMN expires_at timestamptz,
    -- A person's own key: it speaks for this user, with the role the user has at that moment.
    ADD COLUMN acts_for uuid REFERENCES users (id) ON DELETE CASCADE,
    ADD CONSTRAINT team_api_keys_created_by FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE SET NULL;
CREATE INDEX team_api_keys_created_by ON team_api_keys (created_by) WHERE created_by IS NOT NULL;

CREATE TABLE audit_logs (
    seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    team_id        uuid NOT NULL,
    actor_type     text NOT NULL CHECK (actor_type IN ('user', 'api_key', 'system', 'host')),
    actor_id       text,
    actor_name     text NOT NULL DEFAULT '',
    resource_type  text NOT NULL,
    resource_id    text,
    action         text NOT NULL,
    -- admin: for the eyes of owners and admins.
    scope          text NOT NULL CHECK (scope IN ('team', 'admin')),
    status         text NOT NULL CHECK (status IN ('success', 'info', 'warning', 'error')),
    metadata       jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_logs_team ON audit_logs (team_id, seq DESC);
CREATE INDEX audit_logs_actor ON audit_logs (actor_id) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_logs_resource ON audit_logs (resource_id) WHERE resource_id IS NOT NULL;

-- Theoretical arrival times of limited acts. Losing them in a crash only forgives tries.
CREATE UNLOGGED TABLE rate_limits (
    key         text PRIMARY KEY,
    arrival_at  timestamptz NOT NULL
);
CREATE INDEX rate_limits_over ON rate_limits (arrival_at);

-- Facts that are written once in the life of an installation.
CREATE TABLE platform_facts (
    name        text PRIMARY KEY,
    value       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE sandboxes
    ADD COLUMN created_by_user uuid,
    -- Who asked last for a change: {type, id, name}; the author of the event that tells of its end.
    ADD COLUMN wished_by jsonb;
CREATE INDEX sandboxes_team_living ON sandboxes (team_id)
    WHERE state IN ('starting', 'running', 'pausing', 'snapshotting', 'resuming', 'missing');
