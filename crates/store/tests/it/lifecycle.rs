//! Readmission, snapshots, forks and their jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::SandboxErrorCode;
use wrenn_domain::ids::{EventId, ForkId, HostId, KeyId, SandboxId, SnapshotId, TeamId};
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::Store;
use wrenn_store::pg::{
    Author, Capture, Captured, Change, Changed, Forked, JobKind, Lease, NewFork, NewSnapshot, Origin, Outcome,
    Readmitted, Sandbox, SandboxError, SnapshotBegun, SnapshotNews, TemplateKind, Unlimited, Work,
};
use wrenn_testkit::{Database, wait_until};

use crate::rows::{host, place, team, wish};

const LONG: Duration = Duration::from_secs(60);

fn lease(keep: Duration) -> Lease {
    Lease { owner: Uuid::new_v4(), keep }
}

async fn to(store: &Store, row: &Sandbox, state: SandboxState) -> Sandbox {
    let change = Change { state: Some(state), ..Change::default() };
    match store.sandbox_change(row.id, row.generation, &change).await.expect("asked") {
        Changed::Applied(row) => *row,
        other => panic!("{other:?}"),
    }
}

async fn running(store: &Store, team: TeamId, host: HostId) -> Sandbox {
    let row = place(store, &wish(team), host, Duration::ZERO).await;
    to(store, &row, SandboxState::Running).await
}

fn snapshot(name: &str) -> NewSnapshot {
    NewSnapshot {
        id: SnapshotId::from_uuid(Uuid::new_v4()),
        name: name.parse().expect("a name"),
        author: Author::system(),
        replace: false,
    }
}

fn disk() -> DiskMib {
    DiskMib::parse(9000).expect("a size")
}

fn news() -> SnapshotNews {
    SnapshotNews { id: EventId::from_uuid(Uuid::new_v4()), error: None }
}

fn capturing(new: &NewSnapshot) -> Change {
    let capture = Capture { id: new.id, from_paused: false };
    Change { state: Some(SandboxState::Snapshotting), capture: Some(capture), ..Change::default() }
}

#[tokio::test]
async fn whatever_is_not_paused_or_over_holds_its_memory() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    for state in SandboxState::ALL {
        let row = place(&store, &wish(team), host, Duration::ZERO).await;
        to(&store, &row, *state).await;
        let load = store.host_loads().await.expect("loads").remove(0);
        let holds = !matches!(state, SandboxState::Paused | SandboxState::Stopped | SandboxState::Error);
        let over = matches!(state, SandboxState::Stopped | SandboxState::Error);
        let expected = (u64::from(holds) * 512, u64::from(holds), u64::from(!over));
        assert_eq!((load.memory_promised_mib, load.vcpus, load.sandboxes), expected, "{state}");
        let row = store.sandbox_get(team, row.id).await.expect("asked").expect("there");
        to(&store, &row, SandboxState::Stopped).await;
    }
}

#[tokio::test]
async fn the_last_room_is_given_to_one_of_many_resumes() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let mut rows = Vec::new();
    for _ in 0..6 {
        let row = place(&store, &wish(team), host, Duration::ZERO).await;
        rows.push(to(&store, &row, SandboxState::Paused).await);
    }
    let change = Change { state: Some(SandboxState::Resuming), new_operation: true, ..Change::default() };
    let tries =
        rows.iter().map(|row| store.sandbox_readmit(row, &change, |load| load.memory_promised_mib < 1024, &Unlimited));
    let outcomes = futures::future::join_all(tries).await;
    let room = outcomes
        .iter()
        .filter(|o| matches!(o, Ok(Readmitted::Room(Changed::Applied(row))) if row.operation == row.generation))
        .count();
    let full = outcomes.iter().filter(|o| matches!(o, Ok(Readmitted::Full))).count();
    assert_eq!((room, full), (2, 4));
    sqlx::query("UPDATE hosts SET status = 'unreachable'").execute(store.pool()).await.expect("updated");
    let paused = store.sandbox_list(team).await.expect("asked").0.into_iter().find(|r| r.state == SandboxState::Paused);
    let away =
        store.sandbox_readmit(&paused.expect("one is left"), &change, |_| true, &Unlimited).await.expect("asked");
    assert!(matches!(away, Readmitted::HostAway));
}

#[tokio::test]
async fn one_name_is_reserved_once_and_is_seen_when_it_is_full() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let mut new = wish(team);
    new.origin = Origin {
        default_user: "me".to_owned(),
        default_env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        ..Origin::default()
    };
    let mut sources = Vec::new();
    for _ in 0..4 {
        new.id = SandboxId::from_uuid(Uuid::new_v4());
        let row = place(&store, &new, host, Duration::ZERO).await;
        sources.push(to(&store, &row, SandboxState::Running).await);
    }
    let wishes: Vec<_> = sources.iter().map(|row| (row, snapshot("mine"))).collect();
    let tries = wishes.iter().map(|(row, new)| {
        let store = store.clone();
        async move { store.snapshot_begin(row, new, &capturing(new)).await.expect("asked") }
    });
    let outcomes = futures::future::join_all(tries).await;
    let won: Vec<usize> = (0..4).filter(|i| matches!(outcomes[*i], SnapshotBegun::Begun(_))).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| matches!(o, SnapshotBegun::NameTaken)).count(), 3);
    let (source, new) = &wishes[won[0]];
    let name = "mine".parse().expect("a name");
    assert!(store.template_get(team, &name).await.expect("asked").is_none(), "hidden while pending");
    assert!(store.snapshot_is_pending(team, &name).await.expect("asked"));

    let job = store.job_claim(JobKind::Capture, lease(LONG), 10).await.expect("claimed").remove(0);
    assert_eq!((job.id, job.sandbox), (new.id.job(), Some(source.id)));
    let done =
        Outcome::Done(Captured { size_bytes: 7, vcpus: Vcpus::DEFAULT, memory: MemoryMib::DEFAULT, disk: disk() });
    let stale = (source.id, source.generation, Change::default());
    let answer = store.snapshot_settle(new.id, done, &news(), Some(stale)).await.expect("asked");
    let Changed::Stale(now) = answer else { panic!("{answer:?}") };
    assert!(store.template_get(team, &name).await.expect("asked").is_none(), "nothing is written when stale");
    let back = Change { state: Some(SandboxState::Running), ..Change::default() };
    let answer =
        store.snapshot_settle(new.id, done, &news(), Some((source.id, now.generation, back))).await.expect("asked");
    assert!(matches!(answer, Changed::Applied(row) if row.state == SandboxState::Running));
    let made = store.template_get(team, &name).await.expect("asked").expect("there");
    assert_eq!(
        (made.kind, made.host, made.disk, made.size_bytes),
        (TemplateKind::Snapshot, Some(host), Some(disk()), 7)
    );
    assert_eq!((made.default_user.as_str(), made.default_env["A"].as_str()), ("me", "1"));
    assert!(store.job_claim(JobKind::Capture, lease(LONG), 10).await.expect("claimed").is_empty());
}

#[tokio::test]
async fn one_that_replaces_takes_the_name_when_it_is_ready_and_not_before() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let name = "mine".parse().expect("a name");
    let done =
        Outcome::Done(Captured { size_bytes: 7, vcpus: Vcpus::DEFAULT, memory: MemoryMib::DEFAULT, disk: disk() });
    let begin = async |new: &NewSnapshot| {
        let row = running(&store, team, host).await;
        store.snapshot_begin(&row, new, &capturing(new)).await.expect("asked")
    };
    let old = snapshot("mine");
    begin(&old).await;
    store.snapshot_settle(old.id, done, &news(), None).await.expect("settled");
    let held = async || store.template_get(team, &name).await.expect("asked").map(|template| template.id);
    let other = begin(&snapshot("mine")).await;
    assert!(matches!(other, SnapshotBegun::NameTaken), "{other:?}");
    let mut failing = snapshot("mine");
    failing.replace = true;
    assert!(matches!(begin(&failing).await, SnapshotBegun::Begun(_)));
    let mut second = snapshot("mine");
    second.replace = true;
    let begun = begin(&second).await;
    assert!(matches!(begun, SnapshotBegun::NameTaken), "one at a time takes a name: {begun:?}");
    store.snapshot_settle(failing.id, Outcome::Failed, &news(), None).await.expect("settled");
    assert_eq!(held().await, Some(old.id.template()), "a failed one leaves what there was");
    assert!(matches!(begin(&second).await, SnapshotBegun::Begun(_)));
    assert_eq!(held().await, Some(old.id.template()), "it stays until the new one is ready");
    store.snapshot_settle(second.id, done, &news(), None).await.expect("settled");
    assert_eq!(held().await, Some(second.id.template()));
    let discards = store.job_claim(JobKind::Discard, lease(LONG), 10).await.expect("claimed");
    assert!(discards.iter().any(|job| job.id == old.id.job()), "the files of the old one go: {discards:?}");
    let mut platform = snapshot("minimal");
    platform.replace = true;
    let begun = begin(&platform).await;
    assert!(matches!(begun, SnapshotBegun::NameTaken), "the platform's are nobody's to replace: {begun:?}");
}

#[tokio::test]
async fn a_platform_templates_name_is_taken_too() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = running(&store, team, host).await;
    let new = snapshot("minimal");
    let begun = store.snapshot_begin(&row, &new, &capturing(&new)).await.expect("asked");
    assert!(matches!(begun, SnapshotBegun::NameTaken), "{begun:?}");
    let now = store.sandbox_get(team, row.id).await.expect("asked").expect("there");
    assert_eq!(now.state, SandboxState::Running);
}

#[tokio::test]
async fn a_failed_snapshot_frees_its_name_and_is_discarded_until_nothing_can_come_after() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = running(&store, team, host).await;
    let new = snapshot("mine");
    store.snapshot_begin(&row, &new, &capturing(&new)).await.expect("asked");
    store.snapshot_settle(new.id, Outcome::Failed, &news(), None).await.expect("asked");
    store.snapshot_settle(new.id, Outcome::Failed, &news(), None).await.expect("twice is once");
    let discards = store.job_claim(JobKind::Discard, lease(LONG), 10).await.expect("claimed");
    assert_eq!((discards.len(), discards[0].id, discards[0].is_final), (1, new.id.job(), false));
    let (other, again) = (running(&store, team, host).await, snapshot("mine"));
    let begun = store.snapshot_begin(&other, &again, &capturing(&again)).await.expect("asked");
    assert!(matches!(begun, SnapshotBegun::Begun(_)), "{begun:?}");
}

#[tokio::test]
async fn a_deleted_template_is_gone_at_once_and_its_files_follow_by_a_job() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let (row, new) = (running(&store, team, host).await, snapshot("mine"));
    store.snapshot_begin(&row, &new, &capturing(&new)).await.expect("asked");
    let done =
        Outcome::Done(Captured { size_bytes: 7, vcpus: Vcpus::DEFAULT, memory: MemoryMib::DEFAULT, disk: disk() });
    store.snapshot_settle(new.id, done, &news(), None).await.expect("asked");
    for _ in 0..2 {
        store.template_delete(new.id.template(), &[], &[]).await.expect("asked");
    }
    assert!(store.template_get(team, &new.name).await.expect("asked").is_none());
    let mine = lease(LONG);
    let job = store.job_claim_one(JobKind::Discard, mine, new.id.job()).await.expect("asked").expect("there is one");
    assert!(job.is_final);
    assert!(store.job_claim_one(JobKind::Discard, lease(LONG), new.id.job()).await.expect("asked").is_none(), "held");
    assert!(store.job_renew(JobKind::Discard, mine, new.id.job()).await.expect("asked"));
    assert!(!store.job_renew(JobKind::Discard, lease(LONG), new.id.job()).await.expect("asked"), "not the holder");
    store.job_postpone(JobKind::Discard, mine.owner, new.id.job(), Duration::ZERO, true).await.expect("asked");
    let job = wait_until("it is due again", Duration::from_secs(5), || async {
        store.job_claim_one(JobKind::Discard, lease(LONG), new.id.job()).await.expect("asked")
    })
    .await;
    assert_eq!(job.attempts, 1);
    store.job_finish(JobKind::Discard, new.id.job()).await.expect("asked");
    assert!(store.job_next_due(JobKind::Discard).await.expect("asked").is_none());
}

#[tokio::test]
async fn a_fork_reserves_what_fits_and_only_the_fork_makes_its_children() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let source = running(&store, team, host).await;
    let new = NewFork {
        id: ForkId::from_uuid(Uuid::new_v4()),
        key: Some(KeyId::from_uuid(Uuid::new_v4())),
        user: None,
        author: Author::system(),
        audit: Vec::new(),
        children: (0..5).map(|_| SandboxId::from_uuid(Uuid::new_v4())).collect(),
    };
    let fits = |load: &wrenn_store::pg::HostLoad| load.memory_promised_mib + 512 <= 4 * 512;
    for turn in 0..2 {
        let forked = store.fork_begin(&source, &new, fits, &Unlimited).await.expect("asked");
        let Forked::Children(children) = forked else { panic!("{forked:?}") };
        let ids: Vec<_> = children.iter().map(|c| c.id).collect();
        assert_eq!(ids, new.children[..3], "turn {turn}: in order");
        for child in children {
            assert_eq!(
                (child.state, child.parent, child.fork),
                (SandboxState::Starting, Some(source.id), Some(new.id))
            );
            assert_eq!((child.template, child.metadata), (source.template.clone(), source.metadata.clone()));
        }
    }
    assert!(store.work_claim(Work::Start, lease(LONG), 10).await.expect("asked").is_empty());
    assert!(store.work_claim_one(Work::Start, lease(LONG), new.children[0]).await.expect("asked").is_none());
    assert!(store.work_next_due(Work::Start).await.expect("asked").is_none());
    let job = store.job_claim(JobKind::Fork, lease(LONG), 10).await.expect("asked").remove(0);
    assert_eq!((job.id, job.sandbox), (new.id.job(), Some(source.id)));
    assert_eq!(store.fork_children(new.id).await.expect("asked").len(), 3);
    store.fork_finish(new.id).await.expect("asked");
    assert!(store.fork_children(new.id).await.expect("asked").is_empty());
    let child = store.sandbox_get(team, new.children[0]).await.expect("asked").expect("there");
    assert_eq!((child.parent, child.fork), (Some(source.id), None));
    assert!(store.work_claim(Work::Start, lease(LONG), 10).await.expect("asked").is_empty(), "still not the starter's");
}

#[tokio::test]
async fn a_wish_gets_its_generation_as_number_and_forgets_the_last_failure() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = running(&store, team, host).await;
    let failed =
        Change { error: Some(SandboxError::new("it broke", SandboxErrorCode::PauseFailed)), ..Change::default() };
    let Changed::Applied(row) = store.sandbox_change(row.id, row.generation, &failed).await.expect("asked") else {
        panic!("applied")
    };
    assert_eq!(
        (row.error.as_deref(), row.error_code.map(SandboxErrorCode::as_str)),
        (Some("it broke"), Some("pause_failed"))
    );
    let change = Change {
        clear_error: true,
        new_operation: true,
        timeout: TimeoutSec::parse(90).ok(),
        disk_kept: Some(true),
        ..Change::default()
    };
    let Changed::Applied(now) = store.sandbox_change(row.id, row.generation, &change).await.expect("asked") else {
        panic!("applied")
    };
    assert_eq!((now.operation, now.generation), (row.generation + 1, row.generation + 1));
    assert_eq!((now.error, now.error_code, now.timeout.get(), now.disk_kept), (None, None, 90, true));
}
