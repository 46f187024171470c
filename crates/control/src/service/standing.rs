//! Whether a credential still holds, for what lasts longer than one request: a stream must not outlive the session, the key
//! or the membership it was opened with.

use std::time::Duration;

use super::{Actor, Credential, ServiceError, keys, sessions};
use crate::context::Context;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Returns when the actor may no longer use its team. A database that is away proves nothing, so it is asked again.
pub async fn lost(ctx: &Context, actor: &Actor) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Boxed: whoever waits here for long must not hold the room of a look.
        match Box::pin(holds(ctx, actor)).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::debug!(%error, "cannot tell whether a credential still holds"),
        }
    }
}

async fn holds(ctx: &Context, actor: &Actor) -> Result<bool, ServiceError> {
    let now = match &actor.credential {
        Credential::Key(hash) => keys::look_up(ctx, *hash).await?,
        Credential::Session(hash) => sessions::authenticate(ctx, hash).await?.and_then(|known| known.actor.clone()),
    };
    Ok(now.is_some_and(|now| now.team == actor.team && now.user() == actor.user()))
}
