//! `/v1/channels`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::notification_channels::{
    Channel, ChannelFailure, CreateChannel, ReplaceChannelConfig, TestChannel, TestedChannel, UpdateChannel,
};
use wrenn_domain::ids::ChannelId;
use wrenn_domain::notification_channel::{Provider, event_types};
use wrenn_store::pg::ChannelRow;

use super::extract::{Id, JsonBody, parsed};
use super::render::private;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequirePerson;
use crate::context::Context;
use crate::service::notification_channels;

/// Create a notification channel
///
/// Every event of these types in the caller's team is sent to it, in order, again until it was taken or tried 12 times (some three
/// hours). The secret a webhook signs with is in this answer only.
#[utoipa::path(post, path = "/v1/channels", tag = "channels", request_body = CreateChannel, security(("session" = []), ("api_key" = [])),
    responses((status = 201, body = Channel), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    JsonBody(body): JsonBody<CreateChannel>,
) -> Result<(StatusCode, HeaderMap, Json<Channel>), ApiError> {
    let request = notification_channels::CreateChannel {
        name: parsed(&body.name)?,
        provider: provider(&body.provider)?,
        events: event_types(&body.events)?,
        config: body.config,
    };
    let (made, secret) = notification_channels::create(&ctx, &person, request).await?;
    Ok((StatusCode::CREATED, private(), Json(Channel { secret, ..shown(made) })))
}

/// List notification channels
///
/// By name. What they are configured with is not shown.
#[utoipa::path(get, path = "/v1/channels", tag = "channels", security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Vec<Channel>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
) -> Result<Json<Vec<Channel>>, ApiError> {
    Ok(Json(notification_channels::list(&ctx, &person).await?.into_iter().map(shown).collect()))
}

/// Look at a notification channel
#[utoipa::path(get, path = "/v1/channels/{id}", tag = "channels", params(("id" = String, Path, description = "ch- and 25 characters")),
    security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Channel), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<ChannelId>,
) -> Result<Json<Channel>, ApiError> {
    Ok(Json(shown(notification_channels::get(&ctx, &person, id).await?)))
}

/// Change a channel's name and events
#[utoipa::path(patch, path = "/v1/channels/{id}", tag = "channels", request_body = UpdateChannel,
    params(("id" = String, Path, description = "ch- and 25 characters")), security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Channel), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn update(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<ChannelId>,
    JsonBody(body): JsonBody<UpdateChannel>,
) -> Result<Json<Channel>, ApiError> {
    let (name, events) = (parsed(&body.name)?, event_types(&body.events)?);
    Ok(Json(shown(notification_channels::update(&ctx, &person, id, &name, &events).await?)))
}

/// Replace what a channel is configured with
///
/// All of it, but for a webhook's secret when none is sent. What waits is tried at once.
#[utoipa::path(put, path = "/v1/channels/{id}/config", tag = "channels", request_body = ReplaceChannelConfig,
    params(("id" = String, Path, description = "ch- and 25 characters")), security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Channel), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn configure(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<ChannelId>,
    JsonBody(body): JsonBody<ReplaceChannelConfig>,
) -> Result<Json<Channel>, ApiError> {
    Ok(Json(shown(notification_channels::configure(&ctx, &person, id, body.config).await?)))
}

/// Delete a channel
///
/// With what waits for it. Repeating it is no error.
#[utoipa::path(delete, path = "/v1/channels/{id}", tag = "channels", params(("id" = String, Path, description = "ch- and 25 characters")),
    security(("session" = []), ("api_key" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<ChannelId>,
) -> Result<StatusCode, ApiError> {
    notification_channels::delete(&ctx, &person, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Try a configuration
///
/// Sends the event channel.test, once, and keeps nothing. 400 says why it was not taken.
#[utoipa::path(post, path = "/v1/channels/test", tag = "channels", request_body = TestChannel, security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = TestedChannel), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn test(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    JsonBody(body): JsonBody<TestChannel>,
) -> Result<Json<TestedChannel>, ApiError> {
    notification_channels::test(&ctx, &person, provider(&body.provider)?, body.config).await?;
    Ok(Json(TestedChannel { status: "ok".to_owned() }))
}

fn provider(text: &str) -> Result<Provider, ApiError> {
    text.parse().map_err(|_| ApiError::invalid(format!("provider: one of {}", Provider::alternatives())))
}

fn shown(row: ChannelRow) -> Channel {
    Channel {
        id: row.id.to_string(),
        team_id: row.team.to_string(),
        name: row.name,
        provider: row.provider.to_string(),
        events: row.events.iter().map(|kind| kind.to_string()).collect(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        waiting: row.waiting,
        given_up: row.given_up,
        last_delivered_at: row.last_delivered_at,
        last_failure: row.failure.map(|(at, error)| ChannelFailure { at, error }),
        secret: None,
    }
}
