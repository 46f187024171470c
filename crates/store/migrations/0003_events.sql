-- Events leave through here: written in the transaction of the change they tell of, relayed to Redis, delivered at least once.

CREATE TABLE event_outbox (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same in every delivery, so that a receiver can tell a second one.
    id          uuid NOT NULL UNIQUE,
    team_id     uuid NOT NULL,
    payload     jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    relayed_at  timestamptz
);
CREATE INDEX event_outbox_waiting ON event_outbox (seq) WHERE relayed_at IS NULL;
CREATE INDEX event_outbox_age ON event_outbox (created_at);

-- Who must get every event. Events older than the group are not owed to it.
CREATE TABLE event_groups (
    name        text PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- What became of an event at one group. No row: not tried yet.
CREATE TABLE event_deliveries (
    group_name  text NOT NULL REFERENCES event_groups (name) ON DELETE CASCADE,
    event_id    uuid NOT NULL REFERENCES event_outbox (id) ON DELETE CASCADE,
    attempts    integer NOT NULL DEFAULT 0,
    -- Somebody delivers it until then.
    busy_until  timestamptz,
    settled_at  timestamptz,
    -- Given up: a person must look.
    dead        boolean NOT NULL DEFAULT false,
    error       text,
    PRIMARY KEY (group_name, event_id)
);
CREATE INDEX event_deliveries_dead ON event_deliveries (group_name, settled_at) WHERE dead;
