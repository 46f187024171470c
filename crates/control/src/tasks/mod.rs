//! Background work: each task reads the world and moves it one step towards the wishes in the database. Any of them
//! may be killed anywhere, and any number of control planes may run them side by side.
//!
//! Signals ([`crate::queue`], LISTEN/NOTIFY, long polls) only make things sooner. Nothing calls into here but [`spawn_all`].

mod account_hook_caller;
mod account_sweeper;
mod event_deliverer;
mod event_relayer;
mod extension_workers;
mod host_watcher;
mod key_cache_invalidator;
mod live_feed_publisher;
mod mail_sender;
mod notification_sender;
mod sandbox_forker;
mod sandbox_reconciler;
mod sandbox_snapshotter;
mod sandbox_stopper;
mod sandbox_transitions;
mod session_cache_invalidator;
mod signal_listener;
mod snapshot_discarder;
mod spawn;
mod touch_writer;
mod usage_roller;
mod work;
mod work_kinds;

use std::sync::Arc;

use spawn::spawn;

use crate::context::Context;

/// Starts every task. They end when the context's stop token is set.
pub fn spawn_all(ctx: &Arc<Context>) {
    spawn(ctx, "sandbox_starter", sandbox_transitions::run_starts(ctx.clone()));
    spawn(ctx, "sandbox_stopper", sandbox_stopper::run(ctx.clone()));
    spawn(ctx, "sandbox_pauser", sandbox_transitions::run_pauses(ctx.clone()));
    spawn(ctx, "sandbox_resumer", sandbox_transitions::run_resumes(ctx.clone()));
    spawn(ctx, "sandbox_snapshotter", sandbox_snapshotter::run(ctx.clone()));
    spawn(ctx, "snapshot_discarder", snapshot_discarder::run(ctx.clone()));
    spawn(ctx, "sandbox_forker", sandbox_forker::run(ctx.clone()));
    spawn(ctx, "host_watcher", host_watcher::run(ctx.clone()));
    spawn(ctx, "sandbox_reconciler", sandbox_reconciler::run(ctx.clone()));
    spawn(ctx, "signal_listener", signal_listener::run(ctx.clone()));
    spawn(ctx, "touch_writer", touch_writer::run(ctx.clone()));
    spawn(ctx, "key_cache_invalidator", key_cache_invalidator::run(ctx.clone()));
    spawn(ctx, "session_cache_invalidator", session_cache_invalidator::run(ctx.clone()));
    spawn(ctx, "event_relayer", event_relayer::run(ctx.clone()));
    spawn(ctx, "event_deliverer", event_deliverer::run(ctx.clone()));
    spawn(ctx, "live_feed_publisher", live_feed_publisher::run(ctx.clone()));
    spawn(ctx, "usage_roller", usage_roller::run(ctx.clone()));
    spawn(ctx, "mail_sender", mail_sender::run(ctx.clone()));
    spawn(ctx, "notification_sender", notification_sender::run(ctx.clone()));
    spawn(ctx, "account_hook_caller", account_hook_caller::run(ctx.clone()));
    spawn(ctx, "account_sweeper", account_sweeper::run(ctx.clone()));
    extension_workers::spawn_all(ctx);
}
