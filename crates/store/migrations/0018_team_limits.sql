-- Bounds of what teams may use at once. The platform's row (the nil team) holds for teams without one of their own; null is no bound.
CREATE TABLE team_limits (
    team_id         uuid PRIMARY KEY REFERENCES teams (id) ON DELETE CASCADE,
    sandboxes_max   bigint CHECK (sandboxes_max >= 0),
    kept_max        bigint CHECK (kept_max >= 0),
    vcpus_max       bigint CHECK (vcpus_max >= 0),
    memory_mib_max  bigint CHECK (memory_mib_max >= 0),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE team_limits IS 'Bounds of what a team may use at once; the nil team''s row holds for teams without one.';
