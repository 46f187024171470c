//! API keys: who a key speaks for, looked up at most once a second per key; making, listing and taking back.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use wrenn_domain::account::KeyName;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{KeyId, TeamId};
use wrenn_domain::key::{ApiKey, ApiKeyHash};
use wrenn_domain::limits::{DATABASE_WAIT_MAX, KEY_DAYS_MAX, KEYS_PER_TEAM_MAX};
use wrenn_store::Store;
use wrenn_store::pg::{Author, KeyRow, NewAudit, NewKey, TeamAct};

use super::rates::{self, Limited};
use super::{revocation, teams};
use crate::actor::{Actor, Person};
use crate::context::Context;
use crate::error::ServiceError;
use crate::random;

/// A key made now: the only time its secret is seen.
#[derive(Debug)]
pub struct MadeKey {
    pub key: NewKey,
    pub secret: ApiKey,
}

/// A wish for a key.
#[derive(Debug, Clone)]
pub struct CreateKey {
    pub name: KeyName,
    /// Never ends when absent.
    pub days: Option<i64>,
    /// The caller's current team when absent.
    pub team: Option<TeamId>,
}

/// Finds the actor a key speaks for. Look-ups are counted for the network of the client: anybody may send keys that do not exist.
///
/// # Errors
/// When the key is not valid, or the database is away.
pub async fn authenticate(ctx: &Context, network: &str, key: &str) -> Result<Arc<Actor>, ServiceError> {
    let refused = || Failure::new(FailureKind::Unauthorized, "the API key is not valid; send a valid one in X-API-Key");
    let key: ApiKey = key.parse().map_err(|_| refused())?;
    let actor = find(ctx, key.hash(), Some(network)).await?.ok_or_else(refused)?;
    if let Some(used) = &actor.key {
        ctx.touches.key(used.id);
    }
    Ok(actor)
}

/// Finds the actor of a key by its hash; no use is noted.
///
/// # Errors
/// When the database cannot be asked.
pub async fn find_by_hash(ctx: &Context, hash: ApiKeyHash) -> Result<Option<Arc<Actor>>, ServiceError> {
    find(ctx, hash, None).await
}

async fn find(ctx: &Context, hash: ApiKeyHash, network: Option<&str>) -> Result<Option<Arc<Actor>>, ServiceError> {
    let entry = ctx.keys.entry(hash);
    let look_up = || async {
        let _turn = match network {
            Some(network) => Some(
                ctx.permits
                    .key_lookups
                    .wait(network.to_owned(), DATABASE_WAIT_MAX)
                    .await
                    .map_err(|_| ServiceError::Busy("too many API keys are looked up now; try again".to_owned()))?,
            ),
            None => None,
        };
        let found = ctx.store.key_actor(hash).await?;
        Ok::<_, ServiceError>(found.map(|found| Arc::new(Actor::of_key(hash, found))))
    };
    Ok(entry.get_or_try_init(look_up).await?.clone())
}

/// Makes a key for a team of the caller's.
///
/// # Errors
/// When the caller may not make one, the team has too many, or the database is away.
pub async fn create_for(ctx: &Context, person: &Person, request: CreateKey) -> Result<MadeKey, ServiceError> {
    rates::take_account(ctx, Limited::CreateKey, &person.user.to_string()).await?;
    let team = teams::chosen(person, request.team)?;
    let expires_at = match request.days {
        None => None,
        Some(days) if (1..=KEY_DAYS_MAX).contains(&days) => Some(Utc::now() + TimeDelta::days(days)),
        Some(_) => {
            return Err(Failure::invalid(format!("expires_in_days: 1 to {KEY_DAYS_MAX}, or leave it out")).into());
        }
    };
    let secret = ApiKey::from_random(random::bytes()?);
    let key = NewKey {
        id: KeyId::from_uuid(random::id()),
        team,
        name: request.name.to_string(),
        hash: secret.hash(),
        prefix: secret.visible_prefix(),
        created_by: Some(person.user),
        personal: false,
        expires_at,
    };
    let audit = made(&key, person.author());
    match ctx.store.key_create_by(person.user, &key, &[audit]).await? {
        TeamAct::Done(()) => Ok(MadeKey { key, secret }),
        TeamAct::Full => {
            let text = format!("a team has at most {KEYS_PER_TEAM_MAX} keys; revoke some first");
            Err(Failure::new(FailureKind::Conflict, text).into())
        }
        other => Err(teams::refusal(&other, team)),
    }
}

/// A team's keys, newest first.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn list(ctx: &Context, person: &Person, team: Option<TeamId>) -> Result<Vec<KeyRow>, ServiceError> {
    let team = teams::chosen(person, team)?;
    teams::get(ctx, person, team).await?;
    Ok(ctx.store.key_list_by_team(team).await?)
}

/// Takes a key back. One that is not there, or dead already, is no error: it does not work.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn revoke(ctx: &Context, person: &Person, team: Option<TeamId>, id: KeyId) -> Result<(), ServiceError> {
    let team = teams::chosen(person, team)?;
    let audit = NewAudit::new(team, person.author(), "api_key", "revoke").on(id);
    match ctx.store.key_revoke_by(team, person.user, id, &[audit]).await? {
        TeamAct::Done(Some(hash)) => {
            revocation::forget_keys(ctx, &[hash]).await;
            Ok(())
        }
        TeamAct::Done(None) | TeamAct::NoTarget => Ok(()),
        TeamAct::Refused => {
            let text = "members take back their own keys; for others' ask an admin of the team";
            Err(Failure::new(FailureKind::Forbidden, text).into())
        }
        other => Err(teams::refusal(&other, team)),
    }
}

/// For whoever runs the server: makes a key for a team (made when missing). The key in the clear is returned this once.
///
/// # Errors
/// When a name is not valid, or the database is away.
pub async fn create(store: &Store, team: &str, name: &str) -> Result<(KeyId, TeamId, ApiKey), ServiceError> {
    let team = checked(team, "a team's name", 128)?;
    let name = checked(name, "a key's name", 128)?;
    let secret = ApiKey::from_random(random::bytes()?);
    let team = store.team_ensure(&team, TeamId::from_uuid(random::id()), &random::slug()?).await?;
    let id = KeyId::from_uuid(random::id());
    let key = NewKey {
        id,
        team,
        name,
        hash: secret.hash(),
        prefix: secret.visible_prefix(),
        created_by: None,
        personal: false,
        expires_at: None,
    };
    store.key_create(&key, &[made(&key, Author::system())]).await?;
    Ok((id, team, secret))
}

/// The audit row of a key that is made.
pub fn made(key: &NewKey, author: Author) -> NewAudit {
    let row = NewAudit::new(key.team, author, "api_key", "create").on(key.id).with("name", &key.name);
    match key.expires_at {
        Some(at) => row.with("expires_at", at.to_rfc3339()),
        None => row,
    }
}

fn checked(text: &str, what: &str, chars_max: usize) -> Result<String, Failure> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > chars_max || text.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("{what} has 1 to {chars_max} characters and no control characters")));
    }
    Ok(text.to_owned())
}
