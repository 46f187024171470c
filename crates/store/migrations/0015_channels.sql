-- Where a team hears of what happens, and the events on their way there.
CREATE TABLE channels (
    id                 uuid PRIMARY KEY,
    team_id            uuid NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name               text NOT NULL,
    provider           text NOT NULL,
    -- Sealed: the database never knows what is in it.
    config             bytea NOT NULL,
    events             text[] NOT NULL CHECK (cardinality(events) > 0),
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    -- One event at a time, in order. Whoever holds the channel sends it.
    lease_owner        uuid,
    lease_until        timestamptz,
    -- Of the event that is first in line; counted when a try begins, so that one that kills its process counts too.
    attempts           integer NOT NULL DEFAULT 0,
    next_attempt_at    timestamptz NOT NULL DEFAULT now(),
    last_delivered_at  timestamptz,
    failed_at          timestamptz,
    error              text,
    given_up           bigint NOT NULL DEFAULT 0,
    UNIQUE (team_id, name)
);

-- Written in the transaction of the event, removed when the channel took it or it is given up.
CREATE TABLE channel_events (
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    channel_id  uuid NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    payload     jsonb NOT NULL,
    PRIMARY KEY (channel_id, seq)
);
