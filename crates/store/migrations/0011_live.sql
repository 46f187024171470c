-- What is watched while it happens: the order in which events are told, changes of state, and how long sandboxes were in use.

-- An event's place in the order in which it is told. seq is drawn when a row is written, not when it is committed, so a reader
-- that asks for "seq above the last one" misses a row whose transaction ended late. Places are given to committed rows only,
-- by one transaction at a time: whoever has seen a place has seen all below it that there will ever be.
ALTER TABLE event_outbox ADD COLUMN place bigint UNIQUE;
UPDATE event_outbox o SET place = n.place
    FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS place FROM event_outbox) n WHERE n.seq = o.seq;
CREATE SEQUENCE live_places;
SELECT setval('live_places', (SELECT coalesce(max(place), 0) + 1 FROM event_outbox), false);
CREATE INDEX event_outbox_placeless ON event_outbox (seq) WHERE place IS NULL;
CREATE INDEX event_outbox_team_place ON event_outbox (team_id, place);

-- A group hears of one sandbox in order: is there an earlier event of it?
CREATE INDEX event_outbox_resource ON event_outbox ((payload->'resource'->>'id'), seq);

-- Changes of state for those who watch now; forgotten after a few minutes, and by a crash of the database. They share the
-- numbers of events, so that both can be told in one order.
CREATE UNLOGGED TABLE sandbox_moves (
    seq         bigint PRIMARY KEY DEFAULT nextval('event_outbox_seq_seq'),
    place       bigint UNIQUE,
    sandbox_id  uuid NOT NULL,
    team_id     uuid NOT NULL,
    -- Empty at its birth.
    from_state  text NOT NULL,
    to_state    text NOT NULL,
    wished_by   jsonb,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sandbox_moves_placeless ON sandbox_moves (seq) WHERE place IS NULL;
CREATE INDEX sandbox_moves_age ON sandbox_moves (created_at);

-- How long a sandbox held what it holds. running: vCPUs and memory, whatever it is on its way to. paused: its disk alone.
CREATE TABLE sandbox_spans (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sandbox_id  uuid NOT NULL,
    team_id     uuid NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('running', 'paused')),
    vcpus       integer NOT NULL,
    memory_mib  integer NOT NULL,
    began_at    timestamptz NOT NULL,
    -- None: it lasts.
    ended_at    timestamptz CHECK (ended_at >= began_at)
);
CREATE UNIQUE INDEX sandbox_spans_open ON sandbox_spans (sandbox_id) WHERE ended_at IS NULL;
CREATE INDEX sandbox_spans_team_open ON sandbox_spans (team_id) WHERE ended_at IS NULL;
CREATE INDEX sandbox_spans_team ON sandbox_spans (team_id, ended_at);
CREATE INDEX sandbox_spans_age ON sandbox_spans (ended_at);

-- Days (UTC) whose use was added up, for when their spans are forgotten. A day without a row had no use.
CREATE TABLE usage_days (
    team_id             uuid NOT NULL,
    day                 date NOT NULL,
    vcpu_seconds        double precision NOT NULL,
    memory_mib_seconds  double precision NOT NULL,
    PRIMARY KEY (team_id, day)
);
CREATE INDEX usage_days_age ON usage_days (day);
-- The newest day of which all teams were added up; every day before it was too.
CREATE TABLE usage_rolled (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    day   date NOT NULL
);

-- What a sandbox in this state holds; none when it holds nothing a team could use. A missing one cannot be used by anybody.
CREATE FUNCTION sandbox_use(state text, capture_origin text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN state IN ('starting', 'running', 'pausing', 'resuming') THEN 'running'
        WHEN state = 'snapshotting' THEN coalesce(capture_origin, 'running')
        WHEN state = 'paused' THEN 'paused'
    END
$$;

ALTER TABLE sandboxes
    -- When the state began, as the host that brought it about says; none: when it was written. A sandbox that was paused while no
    -- control plane ran was in use until then and no longer.
    ADD COLUMN moved_at timestamptz;

-- A trigger, so that no statement that changes a state can forget it, whatever version of the program it comes from.
CREATE FUNCTION sandbox_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    used_before text;
    used_now text := sandbox_use(NEW.state, NEW.capture_origin);
    -- Not now(): the row's lock may have been waited for, and spans of one sandbox must not overlap.
    moment timestamptz := clock_timestamp();
    ended timestamptz;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO sandbox_moves (sandbox_id, team_id, from_state, to_state, wished_by)
            VALUES (NEW.id, NEW.team_id, '', NEW.state, NEW.wished_by);
    ELSE
        used_before := sandbox_use(OLD.state, OLD.capture_origin);
        IF OLD.state <> NEW.state THEN
            INSERT INTO sandbox_moves (sandbox_id, team_id, from_state, to_state, wished_by)
                VALUES (NEW.id, NEW.team_id, OLD.state, NEW.state, NEW.wished_by);
        END IF;
    END IF;
    IF used_before IS DISTINCT FROM used_now THEN
        UPDATE sandbox_spans SET ended_at = greatest(least(moment, NEW.moved_at), began_at)
            WHERE sandbox_id = NEW.id AND ended_at IS NULL RETURNING ended_at INTO ended;
        IF used_now IS NOT NULL THEN
            INSERT INTO sandbox_spans (sandbox_id, team_id, kind, vcpus, memory_mib, began_at)
                VALUES (NEW.id, NEW.team_id, used_now, NEW.vcpus, NEW.memory_mib, coalesce(ended, moment));
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Those there are: what they held before this migration is not known.
INSERT INTO sandbox_spans (sandbox_id, team_id, kind, vcpus, memory_mib, began_at)
    SELECT id, team_id, sandbox_use(state, capture_origin), vcpus, memory_mib, now() FROM sandboxes
    WHERE sandbox_use(state, capture_origin) IS NOT NULL;

CREATE TRIGGER sandboxes_born AFTER INSERT ON sandboxes FOR EACH ROW EXECUTE FUNCTION sandbox_moved();
CREATE TRIGGER sandboxes_moved AFTER UPDATE OF state, capture_origin ON sandboxes FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.capture_origin IS DISTINCT FROM NEW.capture_origin)
    EXECUTE FUNCTION sandbox_moved();

ALTER TABLE templates
    -- Who asked for the snapshot: the author of the event that tells how it went.
    ADD COLUMN wished_by jsonb;
