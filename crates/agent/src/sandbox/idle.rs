//! When a sandbox has been idle for as long as its user allows: no call of anybody, and a guest that does nothing by itself.
//!
//! All of it is measured from the host, so that measuring does not wake the guest.

use std::time::Duration;

use wrenn_linux::process::{cpu_ticks, disk_bytes};

use super::board::Board;
use super::live::RunningSandbox;
use super::report::now_ms;

/// Between two measurements of what the guest does.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// A guest is busy above these in two measurements in a row; below lies what an idle system does by itself.
const CPU_BUSY_PERCENT: u64 = 5;
const NET_BUSY_BYTES_PER_S: u64 = 16 * 1024;
const DISK_BUSY_BYTES_PER_S: u64 = 32 * 1024;
const BUSY_IN_A_ROW: u32 = 2;

#[derive(Debug, Clone, Copy)]
struct Counters {
    ticks: u64,
    net: u64,
    disk: u64,
}

/// Returns when nothing happened for the sandbox's time-out; never for a sandbox without one.
pub async fn idle(board: &Board, sandbox: &RunningSandbox) {
    let timeout_ms = i64::from(sandbox.ledger.spec.timeout_sec) * 1000;
    if timeout_ms == 0 {
        return std::future::pending().await;
    }
    let mut before = measure(sandbox).await;
    let mut busy = 0;
    loop {
        let left = board.active_at_ms(sandbox.ledger.spec.id) + timeout_ms - now_ms();
        let Ok(left) = u64::try_from(left) else { return };
        if left == 0 {
            return;
        }
        let nap = Duration::from_millis(left).min(MEASURE_EVERY);
        tokio::time::sleep(nap).await;
        let now = measure(sandbox).await;
        if let (Some(then), Some(now)) = (before, now) {
            busy = if is_busy(then, now, nap, sandbox.ledger.spec.vcpus) { busy + 1 } else { 0 };
            if busy >= BUSY_IN_A_ROW {
                board.touch(sandbox.ledger.spec.id);
            }
        }
        before = now;
    }
}

fn is_busy(then: Counters, now: Counters, span: Duration, vcpus: u32) -> bool {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    let per_s = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(1000) / ms;
    // Ticks are hundredths of a second, so ticks per second are per cent of one processor.
    per_s(now.ticks, then.ticks) / u64::from(vcpus.max(1)) >= CPU_BUSY_PERCENT
        || per_s(now.net, then.net) >= NET_BUSY_BYTES_PER_S
        || per_s(now.disk, then.disk) >= DISK_BUSY_BYTES_PER_S
}

/// Reads the counters; `None` when the VM is ending, which is noticed elsewhere.
async fn measure(sandbox: &RunningSandbox) -> Option<Counters> {
    let pid = sandbox.machine.record().process.pid;
    let net = sandbox.slot.traffic_bytes().await.ok()?;
    Some(Counters { ticks: cpu_ticks(pid)?, net, disk: disk_bytes(pid)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_only_keeps_its_clock_is_idle() {
        let zero = Counters { ticks: 0, net: 0, disk: 0 };
        let second = Duration::from_secs(1);
        let with = |ticks, net, disk| is_busy(zero, Counters { ticks, net, disk }, second, 2);
        assert!(!with(8, 1000, 1000));
        assert!(with(10, 0, 0));
        assert!(with(0, 16 * 1024, 0));
        assert!(with(0, 0, 32 * 1024));
    }
}
