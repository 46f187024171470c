//! Which parts answer.

use crate::context::Context;

/// Standing of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Up,
    Down,
}

/// All parts.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    pub postgres: Part,
    pub redis: Part,
}

/// Asks every part, at once.
pub async fn check(ctx: &Context) -> Health {
    let (postgres, redis) = tokio::join!(ctx.store.ping(), ctx.redis.ping());
    let part = |up: bool| if up { Part::Up } else { Part::Down };
    Health { postgres: part(postgres.is_ok()), redis: part(redis.is_ok()) }
}
