//! `wrenn top`: what capsules use now, drawn again every two seconds; once when it is not a terminal that reads.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};
use wrenn_contract::rest::usage::{CapsuleMetrics, MetricPoint};

use super::capsule::show::word;
use crate::api::{ApiError, Client};
use crate::output::{Output, plain, table};

/// Between two drawings.
const EVERY: Duration = Duration::from_secs(2);
/// Capsules asked about at once.
const ASKED_AT_ONCE: usize = 16;
/// Capsules asked about at most: each is a question to a host.
const ROWS_MAX: usize = 100;
/// Rows drawn at once: what fits the smallest usual terminal.
const DRAWN_MAX: usize = 20;

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Show it once and end; what happens anyway when the output is no terminal.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    capsule: Capsule,
    /// The newest measurement; none of one that was not measured.
    used: Option<MetricPoint>,
}

/// Draws until interrupted, or once.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(args: TopArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let live = !args.once && !output.is_json() && std::io::stdout().is_terminal();
    let first = rows(client).await?;
    if !live {
        output.result(&first.0, || draw(&first.0, first.1, ROWS_MAX));
        return Ok(0);
    }
    let mut shown = Ok(first);
    loop {
        let text = match &shown {
            Ok((rows, more)) => draw(rows, *more, DRAWN_MAX),
            // A server that is away for a moment ends nothing.
            Err(error) => plain(&format!("{error}; trying again")),
        };
        // From the top, each line to its end, then all below.
        let drawn = text.lines().map(|line| format!("{line}\x1b[K\r\n")).collect::<String>();
        let mut out = std::io::stdout().lock();
        if write!(out, "\x1b[H{drawn}\x1b[J").and_then(|()| out.flush()).is_err() {
            return Ok(0);
        }
        drop(out);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(0),
            () = tokio::time::sleep(EVERY) => {}
        }
        match rows(client).await {
            Err(error @ ApiError::Refused { status: 401 | 403, .. }) => return Err(error.into()),
            other => shown = other,
        }
    }
}

/// Capsules with what they use, the busiest first, and how many are left out.
async fn rows(client: &Client) -> Result<(Vec<Row>, usize), ApiError> {
    let mut capsules: Vec<Capsule> = client.get("/v1/capsules").await?;
    // Those that run first: the others use nothing.
    capsules.sort_by_key(|capsule| capsule.status != CapsuleStatus::Running);
    let more = capsules.len().saturating_sub(ROWS_MAX);
    capsules.truncate(ROWS_MAX);
    let asked = capsules.into_iter().map(|capsule| async move {
        let path = format!("/v1/capsules/{}/metrics?range=5m", capsule.id);
        // One that ended meanwhile, or whose host is away, is shown without.
        let metrics = client.get::<CapsuleMetrics>(&path).await.ok();
        let newest = metrics.and_then(|metrics| metrics.points.last().cloned());
        Row { used: newest.filter(|_| capsule.status == CapsuleStatus::Running), capsule }
    });
    let mut rows: Vec<Row> = futures::stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await;
    let busy = |row: &Row| row.used.as_ref().map_or(-1.0, |used| used.cpu_pct * f64::from(row.capsule.vcpus));
    rows.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    Ok((rows, more))
}

fn draw(rows: &[Row], more: usize, most: usize) -> String {
    if rows.is_empty() {
        return "No capsules. `wrenn capsule create` makes one.".to_owned();
    }
    let fit = rows.len().min(most);
    let cells: Vec<Vec<String>> = rows.iter().take(fit).map(cells).collect();
    let mut text = table(&["ID", "STATUS", "CPU", "MEMORY", "DISK"], &cells);
    let hidden = rows.len() - fit + more;
    if hidden > 0 {
        text.push_str(&format!("\nand {hidden} more"));
    }
    text
}

fn cells(Row { capsule, used }: &Row) -> Vec<String> {
    let of = |show: &dyn Fn(&MetricPoint) -> String| used.as_ref().map_or_else(|| "-".to_owned(), show);
    vec![
        capsule.id.clone(),
        word(capsule.status),
        of(&|used| format!("{:.1} % of {}", used.cpu_pct, capsule.vcpus)),
        of(&|used| format!("{} of {} MiB", used.mem_bytes >> 20, capsule.memory_mb)),
        of(&|used| format!("{} of {} MiB", used.disk_bytes >> 20, capsule.disk_size_mb)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_what_was_not_measured_is_a_dash() {
        let capsule = serde_json::json!({
            "id": "cl-1", "status": "running", "template": "minimal", "vcpus": 2, "memory_mb": 512, "timeout_sec": 0,
            "disk_size_mb": 5120, "created_at": "2026-01-01T00:00:00Z", "last_updated": "2026-01-01T00:00:00Z",
        });
        let row = |used| Row { capsule: serde_json::from_value(capsule.clone()).expect("a capsule"), used };
        let used = MetricPoint { timestamp_unix: 1, cpu_pct: 12.34, mem_bytes: 100 << 20, disk_bytes: 7 << 20 };
        let text = draw(&[row(Some(used)), row(None), row(None)], 4, 2);
        assert_eq!(
            text,
            "ID    STATUS   CPU          MEMORY          DISK\n\
             cl-1  running  12.3 % of 2  100 of 512 MiB  7 of 5120 MiB\n\
             cl-1  running  -            -               -\n\
             and 5 more"
        );
    }
}
