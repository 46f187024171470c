//! Rows to start a test from.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::{HostId, KeyId, SandboxId, TeamId, TemplateId};
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::Store;
use wrenn_store::pg::{Author, HostFacts, HostImage, NewSandbox, Origin, Placed, PlacedSandbox, Sandbox, Traffic};

pub async fn team(store: &Store) -> TeamId {
    let id = TeamId::from_uuid(Uuid::new_v4());
    store.team_ensure(&id.to_string(), id, &id.to_string()).await.expect("a team")
}

pub async fn host(store: &Store) -> HostId {
    let fresh = HostId::from_uuid(Uuid::new_v4());
    let id = store.host_ensure(&format!("http://{fresh}"), fresh).await.expect("a host");
    store.host_seen(id, Some(&facts(8192))).await.expect("seen");
    id
}

pub fn facts(memory_mib: u64) -> HostFacts {
    HostFacts {
        cpu_cores: 4,
        memory_mib,
        disk_total_mib: 100_000,
        disk_free_mib: 90_000,
        images: vec![HostImage { name: "minimal".parse().expect("a name"), size_bytes: 1 }],
        ..HostFacts::default()
    }
}

pub fn wish(team: TeamId) -> NewSandbox {
    NewSandbox {
        id: SandboxId::from_uuid(Uuid::new_v4()),
        team,
        key: Some(KeyId::from_uuid(Uuid::new_v4())),
        user: None,
        author: Author::system(),
        audit: Vec::new(),
        template: "minimal".parse().expect("a name"),
        template_id: TemplateId::from_uuid(Uuid::nil()),
        origin: Origin::default(),
        vcpus: Vcpus::DEFAULT,
        memory: MemoryMib::DEFAULT,
        disk: DiskMib::DEFAULT,
        timeout: TimeoutSec::NEVER,
        metadata: BTreeMap::from([("who".to_owned(), "me".to_owned())]),
        traffic: Traffic::default(),
    }
}

/// Leased to nobody who lives, for `keep`.
pub async fn place(store: &Store, new: &NewSandbox, host: HostId, keep: Duration) -> Sandbox {
    match store.sandbox_insert(new, host, |_| true, Uuid::new_v4(), keep).await.expect("a database") {
        Placed::Here(sandbox) => *sandbox,
        other => panic!("the host is online and fits: {other:?}"),
    }
}

pub fn ids(placed: &[PlacedSandbox]) -> Vec<SandboxId> {
    placed.iter().map(|p| p.sandbox.id).collect()
}
