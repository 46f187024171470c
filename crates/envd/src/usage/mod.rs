//! `GET /metrics` and `GET /activity`: how busy this machine is.
//!
//! Computed when asked, from the kernel's counters now and at the question before: nothing samples in between, so an
//! idle guest stays asleep. Each of the two routes remembers its own last question.

mod counters;
mod rates;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use nix::sys::statvfs::statvfs;
use wrenn_contract::guest::{Activity, Metrics};

use crate::http::Reply;
use counters::{Cpu, Memory, disk_bytes, network_bytes};
use rates::{Busy, Flow};

/// State that the two routes keep between calls.
#[derive(Debug, Default)]
pub struct Usage {
    metrics: Mutex<Busy>,
    activity: Mutex<(Busy, Flow, Flow)>,
}

/// `GET /metrics`.
///
/// # Errors
/// The kernel's counters cannot be read.
pub async fn metrics(State(usage): State<Arc<Usage>>) -> Result<Json<Metrics>, Reply> {
    answer(move || read_metrics(&usage)).await
}

/// `GET /activity`.
///
/// # Errors
/// The kernel's counters cannot be read.
pub async fn activity(State(usage): State<Arc<Usage>>) -> Result<Json<Activity>, Reply> {
    answer(move || read_activity(&usage)).await
}

/// Counters are read on a blocking thread: looking at a busy disk can take long.
async fn answer<T: Send + 'static>(
    read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<Json<T>, Reply> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(error)) => Err(Reply::internal(format!("the kernel's counters cannot be read: {error}"))),
        Err(error) => Err(Reply::internal(format!("reading the counters did not finish: {error}"))),
    }
}

fn read_metrics(usage: &Usage) -> std::io::Result<Metrics> {
    let (cpu, memory) = (Cpu::read()?, Memory::read()?);
    let disk = statvfs(Path::new("/"))?;
    let disk_total = disk.blocks() * disk.fragment_size();
    let disk_used = disk_total.saturating_sub(disk.blocks_available() * disk.fragment_size());
    let cpu_used_pct = usage.metrics.lock().unwrap_or_else(PoisonError::into_inner).percent(Instant::now(), cpu);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Metrics {
        ts: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        cpu_count: cpu.count,
        cpu_used_pct,
        mem_total: memory.total,
        mem_used: memory.used(),
        mem_total_mib: memory.total >> 20,
        mem_used_mib: memory.used() >> 20,
        disk_total,
        disk_used,
    })
}

fn read_activity(usage: &Usage) -> std::io::Result<Activity> {
    let cpu = Cpu::read()?;
    let (network, disk) = (network_bytes()?, disk_bytes()?);
    let now = Instant::now();
    let mut last = usage.activity.lock().unwrap_or_else(PoisonError::into_inner);
    let (busy, network_flow, disk_flow) = &mut *last;
    Ok(Activity {
        cpu_count: cpu.count,
        cpu_used_pct: busy.percent(now, cpu),
        net_bps: network_flow.per_second(now, network),
        disk_bps: disk_flow.per_second(now, disk),
    })
}
