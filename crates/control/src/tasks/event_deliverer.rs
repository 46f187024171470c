//! Delivers events to the sandbox hooks of extensions, each at least once, until it worked or was tried too often.
//!
//! ```text
//! stream --fresh--> begin in the database --hooks--> settled, acknowledged
//!    ^                        |no: busy or over        |failed: stays pending, again after a pause
//!    |reclaim: taken by a consumer that died           '--too often--> dead letter
//! outbox --overdue: the stream lost it--> begin ...
//! ```
//! What is settled stands in the database; the stream only says when to look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::ids::EventId;
use wrenn_domain::limits::{EVENT_BATCH_MAX, EVENT_TRIES_MAX, HOOK_WAIT_MAX};
use wrenn_store::StoreError;
use wrenn_store::pg::{Begun, Event, Settled};
use wrenn_store::redis::RedisError;
use wrenn_store::redis::stream::Reader;

use super::event_relayer::EVENTS_KEY;
use crate::context::Context;
use crate::error_chain::chain;
use crate::extension::hooks;
use crate::extension::plugin::{SandboxEvent, SandboxEventKind};
use crate::fault::FaultPoint;
use crate::service::redis_entries;

/// The group of the stream, and of the deliveries.
const GROUP: &str = "wrenn-sandbox-hooks-v1";
/// Longest wait for news from the stream.
const BLOCK: Duration = Duration::from_millis(500);
/// Pause before a broken connection is made again.
const PAUSE: Duration = Duration::from_secs(1);
/// A consumer's name is forgotten when it owes nothing and was silent so long.
const CONSUMER_KEPT: Duration = Duration::from_secs(3600);

pub(super) async fn run(ctx: Arc<Context>) {
    let hooks = ctx.extensions.iter().filter(|extension| extension.sandbox_event_hook().is_some()).count() as u32;
    if hooks == 0 {
        return std::future::pending().await;
    }
    let deliverer = Deliverer { ctx, busy: HOOK_WAIT_MAX * hooks + Duration::from_secs(5) };
    while let Err(error) = deliverer.ctx.store.event_group_ensure(GROUP).await {
        tracing::warn!(error = %chain(&error), "cannot begin to deliver events");
        tokio::time::sleep(PAUSE).await;
    }
    let mut swept = None;
    let mut warned = false;
    loop {
        // Also while Redis is away: then this is the only way events come.
        match deliverer.follow(&mut swept).await {
            Ok(()) => warned = false,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(error = chain(&*error), "events are delivered from the database only");
                }
                deliverer.sweep(&mut swept).await;
                tokio::select! {
                    () = deliverer.ctx.deliveries.notified() => swept = None,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

struct Deliverer {
    ctx: Arc<Context>,
    /// How long one delivery may take at most.
    busy: Duration,
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Deliverer {
    /// Follows the stream until something breaks.
    async fn follow(&self, swept: &mut Option<Instant>) -> Result<(), Broken> {
        let mut reader = self.ctx.redis.events_reader(GROUP, &self.ctx.owner.to_string(), BLOCK).await?;
        let mut tidied = Instant::now();
        loop {
            for entry in reader.reclaim(self.ctx.tuning.event_retry_min).await? {
                self.take(&mut reader, &entry.id, &entry.payload).await?;
            }
            self.sweep(swept).await;
            for entry in reader.fresh(BLOCK).await? {
                self.take(&mut reader, &entry.id, &entry.payload).await?;
            }
            if tidied.elapsed() > CONSUMER_KEPT {
                tidied = Instant::now();
                reader.forget_consumers(CONSUMER_KEPT).await?;
            }
        }
    }

    async fn take(&self, reader: &mut Reader, entry: &str, payload: &str) -> Result<(), Broken> {
        let payload = redis_entries::verify(&self.ctx, EVENTS_KEY, payload).await?;
        let over = match payload.and_then(Event::read) {
            Some(event) => {
                let over = self.deliver(&event).await?;
                self.ctx.faults.reach(FaultPoint::DeliverySettled).await;
                over
            }
            // Not written by us, or trimmed away while it was pending; if it was an event the outbox has it.
            None => true,
        };
        if over {
            let acknowledged: Result<(), RedisError> = reader.acknowledge(entry).await;
            acknowledged?;
        }
        Ok(())
    }

    /// Delivers what the stream owes for too long.
    async fn sweep(&self, swept: &mut Option<Instant>) {
        let overdue = self.ctx.tuning.event_overdue;
        if swept.is_some_and(|at| at.elapsed() < overdue / 4) {
            return;
        }
        *swept = Some(Instant::now());
        let found: Result<(), StoreError> = async {
            for waiting in self.ctx.store.delivery_overdue(GROUP, overdue, EVENT_BATCH_MAX).await? {
                match Event::read(&waiting.payload) {
                    Some(event) => {
                        self.deliver(&event).await?;
                    }
                    None => self.give_up(waiting.id, "it is not an event this version knows").await?,
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = found {
            tracing::warn!(error = %chain(&error), "cannot look for overdue events now");
        }
    }

    /// One try. True when the event is over for this group.
    async fn deliver(&self, event: &Event) -> Result<bool, StoreError> {
        let attempt = match self.ctx.store.delivery_begin(GROUP, event.id, self.busy).await? {
            Begun::Over => return Ok(true),
            Begun::Busy => return Ok(false),
            Begun::Try(attempt) => attempt,
        };
        self.ctx.faults.reach(FaultPoint::DeliveryBegun).await;
        if attempt > EVENT_TRIES_MAX {
            self.settle(event.id, Settled::Dead("its process died in every try".to_owned()), attempt).await?;
            return Ok(true);
        }
        let Some(hook_event) = sandbox_event(event) else {
            self.settle(event.id, Settled::Done, attempt).await?;
            return Ok(true);
        };
        let taken = hooks::on_sandbox_event(&self.ctx, &hook_event).await;
        self.ctx.faults.reach(FaultPoint::DeliveryMade).await;
        let Err(error) = taken else {
            self.settle(event.id, Settled::Done, attempt).await?;
            return Ok(true);
        };
        let dead = attempt == EVENT_TRIES_MAX;
        if dead {
            tracing::error!(event = %event.id, attempt, error, "{} is given up; it lies with the dead letters", event.id);
        } else {
            tracing::warn!(event = %event.id, attempt, error, "{} was not taken; trying again", event.id);
        }
        let how = if dead { Settled::Dead(error) } else { Settled::Failed(error) };
        self.settle(event.id, how, attempt).await?;
        Ok(dead)
    }

    async fn give_up(&self, id: EventId, why: &str) -> Result<(), StoreError> {
        if let Begun::Try(attempt) = self.ctx.store.delivery_begin(GROUP, id, self.busy).await? {
            self.settle(id, Settled::Dead(why.to_owned()), attempt).await?;
        }
        Ok(())
    }

    async fn settle(&self, id: EventId, how: Settled, attempt: u32) -> Result<(), StoreError> {
        let tuning = &self.ctx.tuning;
        let pause = tuning.event_retry_min.saturating_mul(1 << attempt.min(16)).min(tuning.event_retry_min * 256);
        self.ctx.store.delivery_settle(GROUP, id, &how, pause).await
    }
}

/// Makes the event that hooks hear of: what worked, of sandboxes.
fn sandbox_event(event: &Event) -> Option<SandboxEvent> {
    if event.outcome != Some(Outcome::Success) {
        return None;
    }
    let kind = match event.kind {
        EventType::CapsuleCreate => SandboxEventKind::Created,
        EventType::CapsuleResume => SandboxEventKind::Resumed,
        EventType::CapsulePause => SandboxEventKind::Paused,
        EventType::CapsuleDestroy => SandboxEventKind::Destroyed,
        EventType::SnapshotCreate | EventType::SnapshotDelete | EventType::HostUp | EventType::HostDown => return None,
    };
    Some(SandboxEvent {
        id: event.id,
        sandbox: event.resource_id.parse().ok()?,
        team: event.team,
        kind,
        occurred_at: event.timestamp,
        metadata: event.metadata.clone(),
    })
}
