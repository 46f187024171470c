-- Columns get the field's words. Renaming one cannot be hidden from programs of the release before (docs/decisions/0024): all control
-- planes of an installation are ended before this, and those of this release started after it.
ALTER TABLE event_outbox RENAME COLUMN place TO feed_position;
ALTER TABLE sandbox_moves RENAME COLUMN place TO feed_position;
ALTER SEQUENCE live_places RENAME TO live_positions;
ALTER INDEX event_outbox_placeless RENAME TO event_outbox_without_position;
ALTER INDEX event_outbox_team_place RENAME TO event_outbox_team_position;
ALTER INDEX sandbox_moves_placeless RENAME TO sandbox_moves_without_position;
ALTER TABLE account_tokens RENAME COLUMN errand_id TO outbound_job_id;
ALTER TABLE sandboxes RENAME COLUMN wished_by TO requested_by;
ALTER TABLE templates RENAME COLUMN wished_by TO requested_by;
ALTER TABLE sandbox_moves RENAME COLUMN wished_by TO requested_by;

CREATE OR REPLACE FUNCTION sandbox_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    used_before text;
    used_now text := sandbox_use(NEW.state, NEW.capture_origin);
    -- Not now(): the row's lock may have been waited for, and spans of one sandbox must not overlap.
    moment timestamptz := clock_timestamp();
    ended timestamptz;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO sandbox_moves (sandbox_id, team_id, from_state, to_state, requested_by)
            VALUES (NEW.id, NEW.team_id, '', NEW.state, NEW.requested_by);
    ELSE
        used_before := sandbox_use(OLD.state, OLD.capture_origin);
        IF OLD.state <> NEW.state THEN
            INSERT INTO sandbox_moves (sandbox_id, team_id, from_state, to_state, requested_by)
                VALUES (NEW.id, NEW.team_id, OLD.state, NEW.state, NEW.requested_by);
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

-- A name may be held by a snapshot that is ready and by the one that is to take its place, while that one is being written.
ALTER TABLE templates DROP CONSTRAINT templates_team_id_name_key;
CREATE UNIQUE INDEX templates_ready_name ON templates (team_id, name) WHERE state = 'ready';
CREATE UNIQUE INDEX templates_pending_name ON templates (team_id, name) WHERE state = 'pending';
