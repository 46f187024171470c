//! `/v1/capsules/{id}/metrics`, `/v1/capsules/stats`, `/v1/capsules/usage`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::usage::{
    CapsuleMetrics, CapsuleStats, MetricPoint, MetricsQuery, StatsCurrent, StatsPeaks, StatsQuery, StatsSeries, Usage,
    UsagePoint, UsageQuery,
};
use wrenn_store::pg::Series;

use super::extract::{Caller, CapsuleId, Params};
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::metrics::{self, MetricsRange};
use crate::service::stats::{self, StatsRange};
use crate::service::usage::{self, UsageRange};

/// Get what a capsule used lately
///
/// Measured by its host: asking wakes nothing in it and is no activity. Also of a paused one. 404 when it is over.
#[utoipa::path(get, path = "/v1/capsules/{id}/metrics", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters"), MetricsQuery),
    responses((status = 200, body = CapsuleMetrics), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn metrics(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    Params(query): Params<MetricsQuery>,
) -> Result<Json<CapsuleMetrics>, ApiError> {
    let range = MetricsRange::parse(query.range.as_deref())?;
    let points = metrics::get(&ctx, &actor, id, range).await?;
    let points = points.into_iter().map(|point| MetricPoint {
        timestamp_unix: point.at_unix,
        cpu_pct: point.cpu_pct,
        mem_bytes: point.memory_bytes,
        disk_bytes: point.disk_bytes,
    });
    Ok(Json(CapsuleMetrics { sandbox_id: id.to_string(), range: range.as_str().to_owned(), points: points.collect() }))
}

/// Get what the team holds
///
/// Now, at most in the last 30 days, and over a range of time.
#[utoipa::path(get, path = "/v1/capsules/stats", tag = "capsules", params(StatsQuery), security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = CapsuleStats), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn stats(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    Params(query): Params<StatsQuery>,
) -> Result<Json<CapsuleStats>, ApiError> {
    let range = StatsRange::parse(query.range.as_deref())?;
    let Series { current, peaks, buckets } = stats::get(&ctx, &actor, range).await?;
    Ok(Json(CapsuleStats {
        range: range.as_str().to_owned(),
        current: StatsCurrent {
            running_count: current.running,
            vcpus_reserved: current.vcpus,
            memory_mb_reserved: current.memory_mib,
        },
        peaks: StatsPeaks { running_count: peaks.running, vcpus: peaks.vcpus, memory_mb: peaks.memory_mib },
        series: StatsSeries {
            labels: buckets.iter().map(|(at, _)| *at).collect(),
            running: buckets.iter().map(|(_, level)| level.running).collect(),
            vcpus: buckets.iter().map(|(_, level)| level.vcpus).collect(),
            memory_mb: buckets.iter().map(|(_, level)| level.memory_mib).collect(),
        },
    }))
}

/// Get what the team used
///
/// By day (UTC), today as far as it has come. Exact to the moment, also while no control plane ran.
#[utoipa::path(get, path = "/v1/capsules/usage", tag = "capsules", params(UsageQuery), security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = Usage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn usage(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    Params(query): Params<UsageQuery>,
) -> Result<Json<Usage>, ApiError> {
    let range = UsageRange::parse(query.from.as_deref(), query.to.as_deref(), usage::today())?;
    let days = usage::get(&ctx, &actor, range).await?;
    let points = days.into_iter().map(|day| UsagePoint {
        date: day.day,
        cpu_minutes: day.vcpu_seconds / 60.0,
        ram_mb_minutes: day.memory_mib_seconds / 60.0,
    });
    Ok(Json(Usage { from: range.from, to: range.to, points: points.collect() }))
}
