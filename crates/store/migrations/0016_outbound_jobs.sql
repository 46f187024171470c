-- `errands` is called what it is: outbound jobs. Programs of the release before go on reading and writing `errands`: it is a view
-- that PostgreSQL updates through. A release later the view may go.
ALTER TABLE errands RENAME TO outbound_jobs;
ALTER INDEX errands_pkey RENAME TO outbound_jobs_pkey;
ALTER INDEX errands_waiting RENAME TO outbound_jobs_pending;
ALTER INDEX errands_due RENAME TO outbound_jobs_due;
ALTER INDEX errands_dead RENAME TO outbound_jobs_dead;
CREATE VIEW errands AS SELECT * FROM outbound_jobs;
COMMENT ON VIEW errands IS 'Old name of outbound_jobs, for programs of the release before.';

COMMENT ON TABLE teams IS 'Teams: owners of sandboxes, keys, templates and notification channels. The nil id is the platform.';
COMMENT ON TABLE team_api_keys IS 'API keys, as SHA-256 of the secret.';
COMMENT ON TABLE team_members IS 'Memberships: which user has which role in which team.';
COMMENT ON TABLE users IS 'User accounts.';
COMMENT ON TABLE sessions IS 'Browser sessions, as SHA-256 of the cookie.';
COMMENT ON TABLE account_tokens IS 'Single-use tokens sent by mail: activation and password reset.';
COMMENT ON COLUMN account_tokens.errand_id IS 'The outbound job whose mail carries the token.';
COMMENT ON TABLE oauth_providers IS 'Identities at OAuth providers that are linked to accounts.';
COMMENT ON TABLE oauth_states IS 'OAuth logins under way, as SHA-256 of the state parameter; used once.';
COMMENT ON TABLE device_logins IS 'Device authorizations of the command line that wait for approval in a browser.';
COMMENT ON TABLE audit_logs IS 'Audit log.';
COMMENT ON TABLE rate_limits IS 'Rate limits: theoretical arrival time of each key (GCRA). Unlogged: losing it only forgives tries.';
COMMENT ON TABLE platform_facts IS 'Settings of the installation that are written once.';
COMMENT ON TABLE hosts IS 'Hosts: their agents, capacity, and the control plane that watches each.';
COMMENT ON TABLE host_jobs IS 'Leased jobs at hosts: capture a snapshot, delete one, fork.';
COMMENT ON TABLE templates IS 'Templates: images of the platform and snapshots of teams. Pending ones are being written by a host.';
COMMENT ON TABLE sandboxes IS 'Sandboxes: desired and actual state, changed by compare-and-set on generation. Lease columns say who drives one.';
COMMENT ON TABLE sandbox_moves IS 'State changes of sandboxes for the live feed. Unlogged and short-lived; written by a trigger on sandboxes.';
COMMENT ON COLUMN sandbox_moves.place IS 'Position in the live feed, shared with event_outbox.place.';
COMMENT ON TABLE sandbox_spans IS 'Usage: how long each sandbox held vCPUs, memory or only its disk; written by a trigger on sandboxes.';
COMMENT ON TABLE usage_days IS 'Usage per team and UTC day, summed from sandbox_spans.';
COMMENT ON TABLE usage_rolled IS 'The newest day for which usage_days is complete.';
COMMENT ON TABLE event_outbox IS 'Transactional outbox of events, relayed to a Redis stream.';
COMMENT ON COLUMN event_outbox.place IS 'Position in the live feed: given after the commit, in the order in which subscribers are sent events.';
COMMENT ON TABLE event_groups IS 'Consumer groups that must receive every event.';
COMMENT ON TABLE event_deliveries IS 'Deliveries of events to consumer groups, dead letters included.';
COMMENT ON TABLE outbound_jobs IS 'Leased jobs outside the database: mails and calls of hooks, written in the transaction that needs them.';
COMMENT ON TABLE channels IS 'Notification channels of teams, with their sealed configuration. Lease columns say who sends.';
COMMENT ON TABLE channel_events IS 'Queue of events for each notification channel, in order.';
