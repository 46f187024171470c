//! The distribution's routes, one for each guard of the core.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use wrenn_control::extension::{
    ExtensionError, RequireAdmin, RequireSession, RequireSessionOrApiKey, ServerContext, TeamId,
};
use wrenn_control::mail::Letter;

use crate::billing;

/// Routes of this distribution.
pub fn router(ctx: &ServerContext) -> Router {
    Router::new()
        .route("/v1/billing/prices", get(prices))
        .route("/v1/billing/account", get(account))
        .route("/v1/billing/limits", get(limits))
        .route("/v1/billing/plans/{team}", put(set_plan))
        .with_state(ctx.clone())
}

/// For everybody.
async fn prices() -> Json<serde_json::Value> {
    Json(serde_json::json!({"free": 0, "pro": 20}))
}

/// For people, in the team they work in.
async fn account(State(ctx): State<ServerContext>, RequireSession(user): RequireSession) -> Response {
    let Some((team, _)) = user.team else { return StatusCode::NOT_FOUND.into_response() };
    answer(billing::account(ctx.pool(), team).await)
}

/// For people and programs.
async fn limits(State(ctx): State<ServerContext>, RequireSessionOrApiKey(actor): RequireSessionOrApiKey) -> Response {
    let found = billing::limits(ctx.pool(), actor.team).await;
    answer(found.map(|limits| Some(serde_json::json!({"sandboxes_max": limits.sandboxes_max}))))
}

#[derive(serde::Deserialize)]
struct Plan {
    sandboxes_max: i64,
}

/// For admins of the platform.
async fn set_plan(
    State(ctx): State<ServerContext>,
    RequireAdmin(_): RequireAdmin,
    Path(team): Path<TeamId>,
    Json(plan): Json<Plan>,
) -> Response {
    match sell(&ctx, team, plan.sandboxes_max.max(0)).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&*error),
    }
}

/// The plan and the mail that tells of it, both or neither. False when the team has no account.
async fn sell(ctx: &ServerContext, team: TeamId, sandboxes_max: i64) -> Result<bool, ExtensionError> {
    let mut tx = ctx.pool().begin().await?;
    let Some(email) = billing::set_plan(&mut tx, team, sandboxes_max).await? else { return Ok(false) };
    let letter = Letter::new("plan-changed", &email.parse()?, "Your plan was changed", "")
        .says(format!("Your team may run {sandboxes_max} capsules at once now."));
    ctx.mailer().send_in(&mut tx, letter).await?;
    tx.commit().await?;
    Ok(true)
}

fn answer<T: serde::Serialize>(found: Result<Option<T>, sqlx::Error>) -> Response {
    match found {
        Ok(Some(value)) => Json(value).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "a billing request failed");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}
