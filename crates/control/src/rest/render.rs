//! What several routes answer: capsules, templates, roles, and the header that keeps caches away. Here "sandbox" becomes "capsule".

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderValue};
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};
use wrenn_contract::rest::snapshots::{Template, TemplateKind};
use wrenn_contract::rest::teams::TeamRole;
use wrenn_domain::role::Role;
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::{MemoryMib, Vcpus};
use wrenn_store::pg::{self, Sandbox};

/// Renders a sandbox as the API shows it.
pub(super) fn capsule(sandbox: Sandbox) -> Capsule {
    let mut metadata = sandbox.metadata;
    metadata.extend(sandbox.system_metadata);
    Capsule {
        id: sandbox.id.to_string(),
        status: status(sandbox.state),
        template: sandbox.template.to_string(),
        vcpus: sandbox.vcpus.get(),
        memory_mb: sandbox.memory.get(),
        timeout_sec: sandbox.timeout.get(),
        disk_size_mb: sandbox.disk.get(),
        disk_used_mb: None,
        auto_resume: sandbox.traffic.auto_resume,
        public_ports: sandbox.traffic.public_ports,
        created_at: sandbox.created_at,
        started_at: sandbox.started_at,
        last_active_at: sandbox.last_active_at,
        last_updated: sandbox.updated_at,
        metadata,
        error: sandbox.error,
    }
}

fn status(state: SandboxState) -> CapsuleStatus {
    match state {
        SandboxState::Starting => CapsuleStatus::Starting,
        SandboxState::Running => CapsuleStatus::Running,
        SandboxState::Pausing => CapsuleStatus::Pausing,
        SandboxState::Paused => CapsuleStatus::Paused,
        SandboxState::Snapshotting => CapsuleStatus::Snapshotting,
        SandboxState::Resuming => CapsuleStatus::Resuming,
        SandboxState::Stopping => CapsuleStatus::Stopping,
        SandboxState::Missing => CapsuleStatus::Missing,
        SandboxState::Stopped => CapsuleStatus::Stopped,
        SandboxState::Error => CapsuleStatus::Error,
    }
}

/// Renders a template as the API shows it.
pub(super) fn template(stored: pg::Template) -> Template {
    Template {
        name: stored.name.to_string(),
        kind: match stored.kind {
            pg::TemplateKind::Base => TemplateKind::Base,
            pg::TemplateKind::Snapshot => TemplateKind::Snapshot,
        },
        vcpus: stored.vcpus.map(Vcpus::get),
        memory_mb: stored.memory.map(MemoryMib::get),
        size_bytes: stored.size_bytes,
        created_at: stored.created_at,
        platform: stored.platform,
        protected: stored.protected,
        metadata: stored.metadata,
    }
}

/// Renders a role as the API writes it.
pub(super) fn role(role: Role) -> TeamRole {
    match role {
        Role::Owner => TeamRole::Owner,
        Role::Admin => TeamRole::Admin,
        Role::Member => TeamRole::Member,
    }
}

/// Makes the headers of an answer that no cache may keep.
pub(super) fn private() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
}
