-- Traffic from outside to ports of sandboxes.

ALTER TABLE sandboxes
    -- Traffic to a paused one resumes it.
    ADD COLUMN auto_resume   boolean NOT NULL DEFAULT false,
    -- Anybody who knows its name may reach its ports; else only callers with a key of its team.
    ADD COLUMN public_ports  boolean NOT NULL DEFAULT true;
