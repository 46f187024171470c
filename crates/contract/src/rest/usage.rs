//! What capsules and teams use: metrics, stats, usage.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Query of `GET /v1/capsules/{id}/metrics`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// 5m, 10m, 1h, 2h, 6h, 12h or 24h; 10m when absent.
    #[serde(default)]
    pub range: Option<String>,
}

/// Recent usage of one capsule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CapsuleMetrics {
    pub sandbox_id: String,
    pub range: String,
    /// Oldest first: twice a second up to 10m, averages over 30 s up to 2h, over 5 min beyond. None while it was paused.
    pub points: Vec<MetricPoint>,
}

/// Usage of a capsule at one moment, or on average until then.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    /// Seconds.
    pub timestamp_unix: i64,
    /// Per cent of all its vCPUs, 0 to 100.
    pub cpu_pct: f64,
    /// Memory of the capsule that is resident on the host, bytes.
    pub mem_bytes: u64,
    /// Disk blocks of the capsule on the host, those of its template included, bytes.
    pub disk_bytes: u64,
}

/// Query of `GET /v1/capsules/stats`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// 5m, 1h, 6h, 24h or 30d; 1h when absent.
    #[serde(default)]
    pub range: Option<String>,
}

/// Resources a team holds.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CapsuleStats {
    pub range: String,
    pub current: StatsCurrent,
    pub peaks: StatsPeaks,
    pub series: StatsSeries,
}

/// Now. A paused capsule counts with half its memory and nothing else.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatsCurrent {
    /// Capsules that run or are on their way to.
    pub running_count: i64,
    pub vcpus_reserved: i64,
    /// MiB.
    pub memory_mb_reserved: i64,
}

/// The most of each in the last 30 days.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatsPeaks {
    pub running_count: i64,
    pub vcpus: i64,
    /// MiB.
    pub memory_mb: i64,
}

/// The most of each within each step of time, as arrays of one length.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatsSeries {
    /// Begin of each step, oldest first; the last one holds now.
    pub labels: Vec<DateTime<Utc>>,
    pub running: Vec<i64>,
    pub vcpus: Vec<i64>,
    /// MiB.
    pub memory_mb: Vec<i64>,
}

/// Query of `GET /v1/capsules/usage`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// First day, YYYY-MM-DD (UTC); 29 days before `to` when absent.
    #[serde(default)]
    pub from: Option<String>,
    /// Last day; today when absent. At most 92 days after `from`.
    #[serde(default)]
    pub to: Option<String>,
}

/// Usage of a team by day.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    pub from: NaiveDate,
    pub to: NaiveDate,
    /// One for each day, in order.
    pub points: Vec<UsagePoint>,
}

/// One day (UTC); today's as far as it has come. Counted to the moment while a capsule runs or is on its way to or from
/// that; one that is paused uses neither.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsagePoint {
    pub date: NaiveDate,
    /// Minutes of one vCPU.
    pub cpu_minutes: f64,
    /// Minutes of one MiB of memory.
    pub ram_mb_minutes: f64,
}
