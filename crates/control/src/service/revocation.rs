//! Making what was ended known at once: caches of this process, Redis for the others. The database has it already, and without this the
//! caches learn it by age, within a second.

use wrenn_domain::ids::UserId;
use wrenn_store::pg::Ended;

use crate::context::Context;
use crate::error_chain::chain;

/// Makes every control plane forget what it knows of these users and keys.
pub async fn forget(ctx: &Context, ended: &Ended) {
    for user in &ended.users {
        match ctx.store.session_generation(*user).await {
            // Purged: nothing of it can be found any more.
            Ok(None) => user_changed(ctx, &user.to_string()),
            Ok(Some(generation)) => forget_sessions(ctx, *user, generation).await,
            Err(error) => {
                user_changed(ctx, &user.to_string());
                tracing::warn!(%user, error = %chain(&error), "other control planes learn of an ended session by age only");
            }
        }
    }
    forget_keys(ctx, &ended.keys).await;
}

/// Makes every control plane forget one user whose cached facts are old.
pub async fn forget_user(ctx: &Context, user: UserId) {
    forget(ctx, &Ended { keys: Vec::new(), users: vec![user] }).await;
}

/// Makes every control plane forget keys (hashes in hex) that are dead.
pub async fn forget_keys(ctx: &Context, hashes: &[String]) {
    for hash in hashes {
        key_ended(ctx, hash);
        if let Err(error) = ctx.redis.key_revoked(hash).await {
            tracing::warn!(error = %chain(&error), "a revoked key may work for one more second elsewhere");
            return;
        }
    }
}

/// Makes every control plane forget a user's sessions older than this generation.
pub(super) async fn forget_sessions(ctx: &Context, user: UserId, generation: i64) {
    let user = user.to_string();
    user_changed(ctx, &user);
    if let Err(error) = ctx.redis.sessions_changed(&user, generation).await {
        tracing::warn!(user, error = %chain(&error), "other control planes learn of an ended session by age only");
    }
}

/// Forgets a key (its hash in hex) in this process, and has all look again who began something with it.
pub fn key_ended(ctx: &Context, hash_hex: &str) {
    ctx.keys.forget(hash_hex);
    ctx.revocations.send_modify(|count| *count = count.wrapping_add(1));
}

/// Forgets a user's sessions in this process, and has all look again who began something with one.
pub fn user_changed(ctx: &Context, user: &str) {
    ctx.sessions.forget(user);
    ctx.revocations.send_modify(|count| *count = count.wrapping_add(1));
}
