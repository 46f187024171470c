-- What is owed to the world outside the database: a mail, a call of a distribution's hook. Written in the transaction that owes it,
-- removed when it is done, given up after so many tries.
CREATE TABLE errands (
    id               uuid PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('mail', 'account_hook')),
    -- Of one kind and key one waits at a time: a wish said twice is one errand. None: one more each time.
    key              text,
    -- Never a secret: a token for a mail is made when the mail leaves.
    payload          jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    lease_owner      uuid,
    lease_until      timestamptz,
    -- Counted when a try begins, so that one that kills its process counts too.
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    -- Given up; kept for a while for who looks for it.
    died_at          timestamptz,
    error            text
);
CREATE UNIQUE INDEX errands_waiting ON errands (kind, key) WHERE died_at IS NULL;
CREATE INDEX errands_due ON errands (kind, next_attempt_at) WHERE died_at IS NULL;
CREATE INDEX errands_dead ON errands (died_at) WHERE died_at IS NOT NULL;

-- The mail that carries it. A mail sent again (its first try may have arrived) carries a second token beside the first.
ALTER TABLE account_tokens ADD COLUMN errand_id uuid;
