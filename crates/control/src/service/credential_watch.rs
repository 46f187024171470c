//! Whether a credential still holds, for what lasts longer than a moment: nothing may outlive the session, the key or the membership it
//! was begun with by more than a second.
//!
//! Every revocation this process makes or hears of wakes the watches at once; else they look from time to time.

use std::time::Duration;

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::UserId;
use wrenn_domain::secret::SecretHash;

use super::events::Viewer;
use super::{keys, sessions};
use crate::actor::{Actor, Credential};
use crate::context::Context;
use crate::error::ServiceError;

/// Between two checks while nobody says that anything was revoked. Together with the age of the caches this bounds how long something
/// outlives its credential when Redis is away.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Returns when the actor may no longer use its team. A database that is away proves nothing, so it is asked again.
pub async fn lost(ctx: &Context, actor: &Actor) {
    wait(ctx, || holds(ctx, actor)).await;
}

/// Returns when somebody who watches events may no longer do so.
pub async fn lost_viewer(ctx: &Context, viewer: &Viewer) {
    match viewer {
        Viewer::Member(actor) => lost(ctx, actor).await,
        Viewer::Admin { user, session } => wait(ctx, || holds_admin(ctx, *user, session)).await,
    }
}

/// Does something for as long as the actor's credential holds; what is under way is dropped when it ends.
///
/// # Errors
/// When the act fails, or the credential ended meanwhile.
pub async fn while_held<T>(
    ctx: &Context,
    actor: &Actor,
    act: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    tokio::select! {
        // The act first: what is done is done.
        biased;
        done = act => done,
        () = lost(ctx, actor) => Err(ended().into()),
    }
}

/// Failure of something under way whose credential ended.
pub fn ended() -> Failure {
    let text = "what this was begun with no longer holds; log in again or use another key";
    Failure::new(FailureKind::Unauthorized, text)
}

async fn wait<F: Future<Output = Result<bool, ServiceError>>>(ctx: &Context, check: impl Fn() -> F) {
    let mut revocations = ctx.revocations.subscribe();
    loop {
        tokio::select! {
            // In any order: both are reasons to look.
            _ = revocations.changed() => {}
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
        // Boxed: whoever waits here for long must not hold the memory of a check.
        match Box::pin(check()).await {
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
        Credential::Key(hash) => keys::find_by_hash(ctx, *hash).await?,
        Credential::Session(hash) => sessions::authenticate(ctx, hash).await?.and_then(|known| known.actor.clone()),
    };
    Ok(now.is_some_and(|now| now.team == actor.team && now.user() == actor.user()))
}
