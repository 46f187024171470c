//! Notification channels: made, looked at, changed and tried by the members of a team.

use std::collections::BTreeMap;

use chrono::Utc;
use wrenn_domain::event::EventType;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{ChannelId, EventId, TeamId};
use wrenn_domain::limits::CHANNELS_PER_TEAM_MAX;
use wrenn_domain::notification_channel::{ChannelConfig, ChannelName, Provider};
use wrenn_store::pg::{ChannelChange, ChannelRow, NewAudit, NewChannel, TeamAct};

use super::rates::{self, Limited};
use super::teams;
use crate::actor::Person;
use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::notification_channels::{Notice, SealError};
use crate::random;

/// A wish for a channel.
pub struct CreateChannel {
    pub name: ChannelName,
    pub provider: Provider,
    pub config: BTreeMap<String, String>,
    pub events: Vec<EventType>,
}

/// The value a webhook's events are signed with.
const SECRET: &str = "secret";

/// Makes a channel. Answers it, and for a webhook the secret it signs with.
///
/// # Errors
/// When the caller may not make one, the configuration is refused, or the database is away.
pub async fn create(
    ctx: &Context,
    person: &Person,
    request: CreateChannel,
) -> Result<(ChannelRow, Option<String>), ServiceError> {
    rates::take_account(ctx, Limited::CreateChannel, &person.user.to_string()).await?;
    let team = teams::chosen(person, None)?;
    let mut config = checked(ctx, request.provider, request.config).await?;
    let secret = fill_secret(&mut config)?;
    let id = ChannelId::from_uuid(random::id());
    let sealed = seal(ctx, id, &config)?;
    let audit = audit(team, person, "create", id).with("name", &request.name).with("provider", request.provider);
    let new = NewChannel {
        id,
        team,
        name: &request.name,
        provider: request.provider,
        config: &sealed,
        events: &request.events,
    };
    let made = done(ctx.store.channel_create_by(person.user, new, &[audit]).await?, team, id)?;
    Ok((made, secret))
}

/// A team's channels, by name.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn list(ctx: &Context, person: &Person) -> Result<Vec<ChannelRow>, ServiceError> {
    let team = teams::chosen(person, None)?;
    teams::get(ctx, person, team).await?;
    Ok(ctx.store.channel_list(team).await?)
}

/// Finds one of a team's channels.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn get(ctx: &Context, person: &Person, id: ChannelId) -> Result<ChannelRow, ServiceError> {
    let team = teams::chosen(person, None)?;
    teams::get(ctx, person, team).await?;
    Ok(ctx.store.channel_get(team, id).await?.ok_or_else(|| not_found(id))?)
}

/// Changes what a channel is called and hears of. What waits for it already is still sent.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn update(
    ctx: &Context,
    person: &Person,
    id: ChannelId,
    name: &ChannelName,
    events: &[EventType],
) -> Result<ChannelRow, ServiceError> {
    let team = teams::chosen(person, None)?;
    let audit = audit(team, person, "update", id).with("name", name);
    let change = ChannelChange::Describe { name, events };
    done(ctx.store.channel_change_by(team, person.user, id, change, &[audit]).await?, team, id)
}

/// Replaces what a channel is configured with. A webhook whose new configuration names no secret keeps the one it has: nobody would
/// ever see another.
///
/// # Errors
/// When the caller may not change it, the configuration is refused, or the database is away.
pub async fn configure(
    ctx: &Context,
    person: &Person,
    id: ChannelId,
    values: BTreeMap<String, String>,
) -> Result<ChannelRow, ServiceError> {
    rates::take_account(ctx, Limited::CreateChannel, &person.user.to_string()).await?;
    let team = teams::chosen(person, None)?;
    teams::get(ctx, person, team).await?;
    let (row, sealed) = ctx.store.channel_config(team, id).await?.ok_or_else(|| not_found(id))?;
    let mut config = checked(ctx, row.provider, values).await?;
    if row.provider == Provider::Webhook && config.value(SECRET).is_empty() {
        let before = ctx.channels.sealer.open(id, &sealed).ok().and_then(|mut values| values.remove(SECRET));
        let text = "config: the secret there was cannot be opened any more; send one";
        let before = before.ok_or_else(|| Failure::invalid(text))?;
        config.fill(SECRET, || before);
    }
    let sealed = seal(ctx, id, &config)?;
    let audit = audit(team, person, "rotate_config", id).with("name", &row.name);
    let change = ChannelChange::Configure(&sealed);
    let changed = done(ctx.store.channel_change_by(team, person.user, id, change, &[audit]).await?, team, id)?;
    ctx.queues.notifications.wake_for(id);
    Ok(changed)
}

/// Deletes a channel with what waits for it. One that is not there is no error.
///
/// # Errors
/// When the caller is not in the team or its role does not allow this, or the database is away.
pub async fn delete(ctx: &Context, person: &Person, id: ChannelId) -> Result<(), ServiceError> {
    let team = teams::chosen(person, None)?;
    let audit = audit(team, person, "delete", id).warning();
    match ctx.store.channel_change_by(team, person.user, id, ChannelChange::Delete, &[audit]).await? {
        TeamAct::NoTarget => Ok(()),
        act => done(act, team, id).map(drop),
    }
}

/// Sends the event `channel.test` with a configuration that is not kept.
///
/// # Errors
/// When the configuration is refused or the receiver does not take the test.
pub async fn test(
    ctx: &Context,
    person: &Person,
    provider: Provider,
    values: BTreeMap<String, String>,
) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::TestChannel, &person.user.to_string()).await?;
    teams::chosen(person, None)?;
    let mut config = checked(ctx, provider, values).await?;
    fill_secret(&mut config)?;
    let notice = Notice::test(EventId::from_uuid(random::id()), &person.author(), Utc::now());
    let sent = ctx.channels.send(&config, &notice).await;
    Ok(sent.map_err(|error| Failure::invalid(format!("{provider} did not take the test: {}", chain(&error))))?)
}

async fn checked(
    ctx: &Context,
    provider: Provider,
    values: BTreeMap<String, String>,
) -> Result<ChannelConfig, ServiceError> {
    let config = ChannelConfig::new(provider, values)?;
    ctx.channels.check(&config).await?;
    Ok(config)
}

/// A webhook signs, with a secret of our making if it brought none.
fn fill_secret(config: &mut ChannelConfig) -> Result<Option<String>, ServiceError> {
    if config.provider() != Provider::Webhook {
        return Ok(None);
    }
    let fresh = random::secret()?;
    Ok(Some(config.fill(SECRET, || fresh.reveal()).to_owned()))
}

fn seal(ctx: &Context, id: ChannelId, config: &ChannelConfig) -> Result<Vec<u8>, Failure> {
    ctx.channels.sealer.seal(id, config.values()).map_err(|error| match error {
        SealError::NoKey => {
            let text = "this installation has no notification channels: who runs it has to set WRENN_ENCRYPTION_KEY";
            Failure::new(FailureKind::NotConfigured, text)
        }
        other => Failure::new(FailureKind::Internal, other.to_string()),
    })
}

fn audit(team: TeamId, person: &Person, act: &'static str, id: ChannelId) -> NewAudit {
    NewAudit::new(team, person.author(), "channel", act).on(id)
}

fn done<T>(act: TeamAct<T>, team: TeamId, id: ChannelId) -> Result<T, ServiceError> {
    let failure = match act {
        TeamAct::Done(done) => return Ok(done),
        TeamAct::NoTarget => not_found(id),
        TeamAct::Already => Failure::new(FailureKind::Conflict, "the team has a channel of that name; take another"),
        TeamAct::Full => {
            let text = format!("a team has at most {CHANNELS_PER_TEAM_MAX} channels; delete one first");
            Failure::new(FailureKind::Conflict, text)
        }
        other => return Err(teams::refusal(&other, team)),
    };
    Err(failure.into())
}

fn not_found(id: ChannelId) -> Failure {
    Failure::not_found(format!("there is no channel {id}"))
}
