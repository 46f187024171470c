//! The handshake in which a guest gets its identity and confirms it.

use std::collections::BTreeMap;
use std::sync::Arc;

use wrenn_contract::guest::InitDone;
use wrenn_vmm::Machine;

use super::error::StartError;
use super::live::console_tail;
use crate::context::Context;
use crate::guest::{GuestClient, InitRequest, ReadyListener, wait_ready};
use crate::ledger::Ledger;

/// Metadata that names what a sandbox came back from when it lost its memory.
pub const RESUMED_FROM: &str = "resumed_from";
/// Metadata that names the kernel that runs in it.
pub const KERNEL_VERSION: &str = "kernel_version";

/// How the guest came to run, as far as it matters to its first handshake.
pub enum Started {
    /// The guest boots, and says so to this listener.
    Booted(ReadyListener),
    /// The guest goes on from a capture whose disk had so many bytes.
    Restored { disk_bytes: u64 },
}

/// Gives a guest its identity and waits for its confirmation.
///
/// # Errors
/// The VM ended, or the guest did not confirm in time; the error has the end of its console.
pub async fn init_guest(
    ctx: &Context,
    ledger: &Ledger,
    started: &Started,
    guest: &GuestClient,
    machine: &Arc<dyn Machine>,
) -> Result<InitDone, StartError> {
    let spec = &ledger.spec;
    let (listener, grow_root) = match started {
        Started::Booted(listener) => (Some(listener), true),
        Started::Restored { disk_bytes } => (None, u64::from(spec.disk_mib) << 20 > *disk_bytes),
    };
    let request = InitRequest {
        sandbox_id: spec.id.to_string(),
        template: &spec.template,
        token: &ledger.token,
        lifecycle: &ledger.lifecycle,
        default_user: &spec.default_user,
        default_workdir: &ledger.workdir,
        env: &spec.default_env,
        dns: &ctx.config.dns,
        proxy_domain: &ctx.config.proxy_domain,
        grow_root,
    };
    let ready = tokio::select! {
        // An answer that came in time counts, also when the VM ended at the same moment: that is noticed next.
        biased;
        ready = wait_ready(listener, guest, &request) => ready,
        () = machine.ended() => return Err(StartError::Ended { console: console_tail(machine).await }),
    };
    match ready {
        Ok(done) => Ok(done),
        Err(source) => Err(StartError::Guest { console: console_tail(machine).await, source }),
    }
}

/// Collects the versions that are reported with a sandbox.
pub fn metadata(ctx: &Context, done: InitDone, from_own_disk: bool) -> BTreeMap<String, String> {
    let vmm = format!("{} {}", ctx.driver.name(), ctx.driver.version());
    let mut all = BTreeMap::from([
        (KERNEL_VERSION.to_owned(), done.kernel_version),
        ("vmm_version".to_owned(), vmm),
        ("agent_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("envd_version".to_owned(), done.version),
    ]);
    if from_own_disk {
        all.insert(RESUMED_FROM.to_owned(), "disk".to_owned());
    }
    all
}
