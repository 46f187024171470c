//! Whether a credential still holds, for what lasts longer than one request: a stream must not outlive the session, the key
//! or the membership it was opened with.

use std::time::Duration;

use wrenn_domain::ids::UserId;
use wrenn_domain::secret::SecretHash;

use super::events::Viewer;
use super::{Actor, Credential, ServiceError, keys, sessions};
use crate::context::Context;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Returns when the actor may no longer use its team. A database that is away proves nothing, so it is asked again.
pub async fn lost(ctx: &Context, actor: &Actor) {
    wait(|| holds(ctx, actor)).await;
}

/// The same of somebody who watches.
pub async fn lost_viewer(ctx: &Context, viewer: &Viewer) {
    match viewer {
        Viewer::Member(actor) => lost(ctx, actor).await,
        Viewer::Admin { user, session } => wait(|| holds_admin(ctx, *user, session)).await,
    }
}

async fn wait<F: Future<Output = Result<bool, ServiceError>>>(look: impl Fn() -> F) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Boxed: whoever waits here for long must not hold the room of a look.
        match Box::pin(look()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::debug!(%error, "cannot tell whether a credential still holds"),
        }
    }
}

async fn holds_admin(ctx: &Context, user: UserId, session: &SecretHash) -> Result<bool, ServiceError> {
    let known = sessions::authenticate(ctx, session).await?;
    Ok(known.is_some_and(|known| known.facts.user == user) && sessions::is_admin(ctx, user).await?)
}

async fn holds(ctx: &Context, actor: &Actor) -> Result<bool, ServiceError> {
    let now = match &actor.credential {
        Credential::Key(hash) => keys::look_up(ctx, *hash).await?,
        Credential::Session(hash) => sessions::authenticate(ctx, hash).await?.and_then(|known| known.actor.clone()),
    };
    Ok(now.is_some_and(|now| now.team == actor.team && now.user() == actor.user()))
}
