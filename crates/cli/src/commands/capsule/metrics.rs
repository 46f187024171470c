//! `wrenn capsule metrics`: what one capsule used lately.

use chrono::DateTime;
use wrenn_contract::rest::usage::{CapsuleMetrics, MetricPoint};

use crate::api::Client;
use crate::output::{Output, table};

/// Rows for people; programs get all points.
const ROWS_MAX: usize = 30;

/// Shows the points of a range.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(id: &str, range: &str, client: &Client, output: &Output) -> anyhow::Result<()> {
    let metrics: CapsuleMetrics = client.get(&format!("/v1/capsules/{id}/metrics?range={range}")).await?;
    output.result(&metrics, || {
        if metrics.points.is_empty() {
            return format!("Nothing was measured of {id} in the last {range}.");
        }
        // The newest of each step.
        let step = metrics.points.len().div_ceil(ROWS_MAX);
        let rows: Vec<_> = metrics.points.rchunks(step).rev().filter_map(|chunk| chunk.last()).map(row).collect();
        table(&["TIME", "CPU", "MEMORY", "DISK"], &rows)
    });
    Ok(())
}

fn row(point: &MetricPoint) -> Vec<String> {
    let at = DateTime::from_timestamp(point.timestamp_unix, 0).unwrap_or_default();
    vec![
        at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        format!("{:.1} %", point.cpu_pct),
        format!("{} MiB", point.mem_bytes >> 20),
        format!("{} MiB", point.disk_bytes >> 20),
    ]
}
