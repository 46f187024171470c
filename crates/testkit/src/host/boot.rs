//! Start of a simulated sandbox's guest.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use wrenn_contract::proto::wrenn::host::v1::SandboxPhase;

use super::guest::{GuestProcess, Home, make_home};
use super::state::{Guest, Inner};

/// A guest of this host's kind over a copy of `disk`, or over a fresh one.
pub(super) async fn start_guest(inner: &Inner, disk: Option<Home>) -> Result<Option<GuestProcess>, (String, String)> {
    let Guest::Envd(program) = &inner.guest else { return Ok(None) };
    let started = async {
        let home = make_home(disk.as_ref().map(|disk| disk.path()))?;
        GuestProcess::start(program, home).await
    };
    started.await.map(Some).map_err(|error| (wrenn_domain::ErrorCode::InternalError.to_string(), format!("{error:#}")))
}

/// Takes a sandbox from STARTING to RUNNING or FAILED.
pub(super) async fn boot(inner: Arc<Inner>, id: String) {
    let disk = inner.state.lock().expect("no panic while held").sandboxes.get(&id).and_then(|sim| sim.home.clone());
    let guest = match inner.behaviour().fail_starts {
        Some(failure) => Err(failure),
        None => start_guest(&inner, disk).await,
    };
    inner.change(&id, |sim| {
        if sim.report.phase.as_known() != Some(SandboxPhase::Starting) {
            return;
        }
        match guest {
            Ok(guest) => {
                (sim.guest, sim.home) = (guest, None);
                sim.report.phase = SandboxPhase::Running.into();
                sim.report.started_at_ms = now_ms();
                sim.report.last_active_at_ms = now_ms();
                for (key, value) in [("envd_version", "0.1.0"), ("kernel_version", "6.1.0-sim")] {
                    sim.report.metadata.insert(key.to_owned(), value.to_owned());
                }
            }
            Err((code, text)) => {
                sim.report.phase = SandboxPhase::Failed.into();
                sim.report.reason_code = code;
                sim.report.reason = text;
            }
        }
    });
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| i64::try_from(t.as_millis()).unwrap_or(0))
}
