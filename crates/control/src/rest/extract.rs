//! What handlers take out of a request: the caller, ids, JSON bodies, queries. Every refusal is an [`ApiError`].

use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::RequestPartsExt;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use wrenn_contract::rest::error::ErrorCode;
use wrenn_domain::ids::{SandboxId, UserId};
use wrenn_domain::limits::{JSON_BODY_BYTES_MAX, JSON_BODY_WAIT_MAX};
use wrenn_domain::names::TemplateName;

use crate::actor::Actor;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequireSessionOrApiKey;
use crate::client_address::ClientAddress;
use crate::connection::Cut;
use crate::context::Context;
use crate::error::ServiceError;
use crate::state::pool::Permit;

/// The caller, by X-API-Key or by session, in a team.
pub(super) struct Caller(pub(super) Arc<Actor>);

impl FromRequestParts<Arc<Context>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, ctx: &Arc<Context>) -> Result<Self, ApiError> {
        Ok(Self(RequireSessionOrApiKey::from_request_parts(parts, ctx).await?.0))
    }
}

/// Where the request comes from.
pub(super) struct From(pub(super) ClientAddress);

impl FromRequestParts<Arc<Context>> for From {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, ctx: &Arc<Context>) -> Result<Self, Infallible> {
        Ok(Self(ClientAddress::of(parts, &ctx.config.accounts.trusted_proxies)))
    }
}

/// The way to cut the connection a request came over; none where it carries several requests at once.
pub(super) struct ConnectionCut(pub(super) Option<Cut>);

impl<S: Send + Sync> FromRequestParts<S> for ConnectionCut {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Cut>().cloned()))
    }
}

/// `{id}` of a path, as an id of some kind.
pub(super) struct Id<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr<Err: Display>> FromRequestParts<S> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parsed(&path_part(parts, "id").await?).map(Self)
    }
}

/// `{uid}` of a path, as a user's id.
pub(super) struct MemberId(pub(super) UserId);

impl<S: Send + Sync> FromRequestParts<S> for MemberId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parsed(&path_part(parts, "uid").await?).map(Self)
    }
}

/// `{provider}` of a path.
pub(super) struct ProviderName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ProviderName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        path_part(parts, "provider").await.map(Self)
    }
}

/// A value a caller wrote, or what is wrong with it.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: T::Err| ApiError::invalid(error.to_string()))
}

/// `{id}` of a path, as a capsule's id.
pub(super) struct CapsuleId(pub(super) SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for CapsuleId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let text = path_part(parts, "id").await?;
        SandboxId::from_str(&text).map(Self).map_err(|error| ApiError::invalid(error.to_string()))
    }
}

/// `{name}` of a path, as a template's name.
pub(super) struct TemplateNamed(pub(super) TemplateName);

impl<S: Send + Sync> FromRequestParts<S> for TemplateNamed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self(path_part(parts, "name").await?.parse()?))
    }
}

/// `{selector}` of a path.
pub(super) struct SelectorText(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for SelectorText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        path_part(parts, "selector").await.map(Self)
    }
}

/// `{port}` of a path.
pub(super) struct PortText(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PortText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        path_part(parts, "port").await.map(Self)
    }
}

async fn path_part(parts: &mut Parts, name: &str) -> Result<String, ApiError> {
    let Path(all) = parts
        .extract::<Path<Vec<(String, String)>>>()
        .await
        .map_err(|_| ApiError::invalid("the path is not valid UTF-8"))?;
    all.into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
        .ok_or_else(|| ApiError::new(ErrorCode::InternalError, "this route has no such part"))
}

/// A query string.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid(format!("the query is not valid: {}", innermost(&error))))?;
        Ok(Self(query.0))
    }
}

/// The cause below the framework's own words.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Context>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, ctx: &Arc<Context>) -> Result<Self, ApiError> {
        check_kind(request.headers())?;
        let (bytes, _permit) = collect(request, ctx).await?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be left out.
pub(super) struct OptionalJsonBody<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<Arc<Context>> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, ctx: &Arc<Context>) -> Result<Self, ApiError> {
        // Some clients name a type although they send nothing.
        let kind = check_kind(request.headers());
        let (bytes, _permit) = collect(request, ctx).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        kind?;
        parse(&bytes).map(|value| Self(Some(value)))
    }
}

fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "send JSON with Content-Type: application/json"));
    }
    Ok(())
}

/// Collects a body within the bytes that are held for its client's network.
async fn collect(request: Request, ctx: &Context) -> Result<(Bytes, Permit<String>), ApiError> {
    let (parts, body) = request.into_parts();
    let network = ClientAddress::of(&parts, &ctx.config.accounts.trusted_proxies).network();
    let size = body.size_hint().upper().and_then(|size| usize::try_from(size).ok());
    let size = size.unwrap_or(JSON_BODY_BYTES_MAX).min(JSON_BODY_BYTES_MAX);
    let permit = ctx.permits.body_bytes.wait_many(network, size, JSON_BODY_WAIT_MAX).await;
    let permit = permit.map_err(|_| ServiceError::Busy("too many large requests at once; try again".to_owned()))?;
    let request = Request::from_parts(parts, body);
    let body = Limited::new(request.into_body(), JSON_BODY_BYTES_MAX).collect();
    let collected = tokio::time::timeout(JSON_BODY_WAIT_MAX, body)
        .await
        .map_err(|_| ApiError::new(ErrorCode::RequestTimeout, "the body did not arrive in time"))?;
    Ok((collected.map_err(body_error)?.to_bytes(), permit))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Every body is an object; serde would take an array for one too.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ApiError::invalid("the JSON is not valid: send an object"));
    }
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut from)
        .map_err(|error| ApiError::invalid(format!("the JSON is not valid: {error}")))?;
    from.end().map_err(|error| ApiError::invalid(format!("the JSON is not valid: {error}")))?;
    Ok(value)
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> ApiError {
    if error.is::<http_body_util::LengthLimitError>() {
        let text = format!("the body is larger than {JSON_BODY_BYTES_MAX} bytes");
        return ApiError::new(ErrorCode::PayloadTooLarge, text);
    }
    ApiError::invalid("the body ended early")
}
