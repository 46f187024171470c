//! Background work: each task reads the world and moves it one step towards the wishes in the database. Any of them
//! may be killed anywhere, and any number of control planes may run them side by side.
//!
//! Signals ([`WorkQueue`], LISTEN/NOTIFY, long polls) only make things sooner. Nothing calls into here but [`spawn_all`].

mod account_sweeper;
mod account_teller;
mod channel_sender;
mod event_deliverer;
mod event_relayer;
mod event_teller;
mod extension_workers;
mod host_watcher;
mod key_forgetter;
mod kinds;
mod mail_sender;
mod sandbox_forker;
mod sandbox_pauser;
mod sandbox_reconciler;
mod sandbox_resumer;
mod sandbox_snapshotter;
mod sandbox_starter;
mod sandbox_stopper;
mod session_forgetter;
mod signal_listener;
mod snapshot_discarder;
mod touch_writer;
mod usage_roller;
mod work;

use std::future::Future;
use std::sync::Arc;

use crate::context::Context;

pub use kinds::{ChannelQueues, Kind};
pub use work::WorkQueue;

/// Starts every task. They end when the context's stop token is set.
pub fn spawn_all(ctx: &Arc<Context>) {
    spawn(ctx, "sandbox_starter", sandbox_starter::run(ctx.clone()));
    spawn(ctx, "sandbox_stopper", sandbox_stopper::run(ctx.clone()));
    spawn(ctx, "sandbox_pauser", sandbox_pauser::run(ctx.clone()));
    spawn(ctx, "sandbox_resumer", sandbox_resumer::run(ctx.clone()));
    spawn(ctx, "sandbox_snapshotter", sandbox_snapshotter::run(ctx.clone()));
    spawn(ctx, "snapshot_discarder", snapshot_discarder::run(ctx.clone()));
    spawn(ctx, "sandbox_forker", sandbox_forker::run(ctx.clone()));
    spawn(ctx, "host_watcher", host_watcher::run(ctx.clone()));
    spawn(ctx, "sandbox_reconciler", sandbox_reconciler::run(ctx.clone()));
    spawn(ctx, "signal_listener", signal_listener::run(ctx.clone()));
    spawn(ctx, "touch_writer", touch_writer::run(ctx.clone()));
    spawn(ctx, "key_forgetter", key_forgetter::run(ctx.clone()));
    spawn(ctx, "session_forgetter", session_forgetter::run(ctx.clone()));
    spawn(ctx, "event_relayer", event_relayer::run(ctx.clone()));
    spawn(ctx, "event_deliverer", event_deliverer::run(ctx.clone()));
    spawn(ctx, "event_teller", event_teller::run(ctx.clone()));
    spawn(ctx, "usage_roller", usage_roller::run(ctx.clone()));
    spawn(ctx, "mail_sender", mail_sender::run(ctx.clone()));
    spawn(ctx, "channel_sender", channel_sender::run(ctx.clone()));
    spawn(ctx, "account_teller", account_teller::run(ctx.clone()));
    spawn(ctx, "account_sweeper", account_sweeper::run(ctx.clone()));
    extension_workers::spawn_all(ctx);
}

/// Starts one named, counted task that hears the stop signal.
fn spawn(ctx: &Arc<Context>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let stop = ctx.stop.clone();
    ctx.tasks.spawn(async move {
        tokio::select! {
            // Stop first: a task that is always ready must still end.
            biased;
            () = stop.cancelled() => {}
            () = task => tracing::error!(task = name, "a background task ended by itself"),
        }
    });
}
