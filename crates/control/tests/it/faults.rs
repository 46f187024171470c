//! The control plane is killed between every two steps of every act, and started again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use wrenn_control::fault::{FaultPoint, Faults};
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Api, Plane, SOON, host_is_known, new_key, trap};
use crate::people::{PASSWORD, mails_in, token_in};

/// What is under way when the world stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    Pause,
    Resume,
    Snapshot,
    DeleteTemplate,
    Fork,
    Delete,
    SignUp,
}

/// The act a point belongs to, and whether anything of it was written before. None: it is passed only where there is somebody to deliver
/// to (`live.rs`), a channel (`channels.rs`) or an extension (`extensions.rs`), and walked there.
fn act_of(point: FaultPoint) -> Option<(Act, bool)> {
    use FaultPoint as P;
    Some(match point {
        P::CreateAccepted => (Act::Create, false),
        P::CreateStored | P::StartClaimed | P::StartCalled | P::StartNoted | P::ReportReceived => (Act::Create, true),
        P::PauseAccepted => (Act::Pause, false),
        P::PauseStored | P::PauseClaimed | P::PauseCalled | P::PauseNoted => (Act::Pause, true),
        P::ResumeAccepted => (Act::Resume, false),
        P::ResumeStored | P::ResumeClaimed | P::ResumeCalled | P::ResumeNoted => (Act::Resume, true),
        P::SnapshotAccepted => (Act::Snapshot, false),
        P::SnapshotStored | P::CaptureClaimed | P::CaptureCalled | P::CaptureNoted => (Act::Snapshot, true),
        P::TemplateDeleteAccepted => (Act::DeleteTemplate, false),
        P::TemplateDeleteStored | P::DiscardClaimed | P::DiscardCalled => (Act::DeleteTemplate, true),
        P::ForkAccepted => (Act::Fork, false),
        P::ForkStored | P::ForkClaimed | P::ForkCalled | P::ForkChildNoted | P::ForkNoted => (Act::Fork, true),
        P::DeleteAccepted => (Act::Delete, false),
        P::DeleteStored | P::StopClaimed | P::StopCalled | P::StopNoted => (Act::Delete, true),
        // Its event is on its way.
        P::EventsTaken | P::EventsAppended => (Act::Create, true),
        P::DeliveryBegun | P::DeliveryMade | P::DeliverySettled => return None,
        P::SignUpStored | P::MailClaimed | P::MailWritten | P::MailSent => (Act::SignUp, true),
        P::ChannelClaimed | P::ChannelSent => return None,
        P::AccountPurged | P::AccountHookClaimed | P::AccountHookCalled => return None,
    })
}

/// The capsule the act is about, as it must be before.
async fn prepare(act: Act, api: &Api) -> String {
    if matches!(act, Act::Create | Act::SignUp) {
        return String::new();
    }
    let id = api.create_running().await;
    match act {
        Act::Resume => {
            api.act(&id, "pause").await;
            api.wait_status(&id, "paused").await;
        }
        Act::DeleteTemplate => {
            api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await;
            api.wait_status(&id, "running").await;
        }
        Act::Create | Act::Pause | Act::Snapshot | Act::Fork | Act::Delete | Act::SignUp => {}
    }
    id
}

async fn perform(act: Act, api: &Api, id: &str) {
    match act {
        Act::Create => api.post("/v1/capsules", json!({})).await,
        Act::Pause => api.act(id, "pause").await,
        Act::Resume => api.act(id, "resume").await,
        Act::Snapshot => api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await,
        Act::DeleteTemplate => api.delete("/v1/snapshots/mine").await,
        Act::Fork => api.post(&format!("/v1/capsules/{id}/fork"), json!({"count": 3})).await,
        Act::Delete => api.delete(&format!("/v1/capsules/{id}")).await,
        Act::SignUp => {
            let body = json!({"email": "ann@example.com", "password": PASSWORD, "name": "Ann"});
            api.post("/v1/auth/signup", body).await
        }
    };
}

async fn ids(api: &Api) -> Vec<String> {
    let rows = api.get("/v1/capsules").await.json();
    rows.as_array().expect("a list").iter().filter_map(|row| row["id"].as_str()).map(str::to_owned).collect()
}

/// What the next control plane makes of it: all of the act if anything was written, else nothing.
async fn check(act: Act, written: bool, api: &Api, (host, database): (&SimHost, &Database), id: &str) {
    let snapshots = async || api.get("/v1/snapshots?type=snapshot").await.json().as_array().map_or(0, Vec::len);
    match (act, written) {
        (Act::Create, _) => {
            let rows = ids(api).await;
            assert_eq!(rows.len(), usize::from(written));
            for id in rows {
                api.wait_status(&id, "running").await;
                assert_eq!(host.living(), vec![id.clone()]);
            }
        }
        (Act::Pause, true) | (Act::Resume, false) => api.wait_status(id, "paused").await,
        (Act::Pause, false) | (Act::Resume, true) | (Act::Delete, false) => api.wait_status(id, "running").await,
        (Act::Delete, true) => api.wait_status(id, "stopped").await,
        (Act::Snapshot, _) => {
            api.wait_status(id, "running").await;
            assert_eq!((snapshots().await, host.snapshots().len()), (usize::from(written), usize::from(written)));
        }
        (Act::DeleteTemplate, true) => {
            assert_eq!(snapshots().await, 0);
            wait_until("its files are gone", SOON, || async { host.snapshots().is_empty().then_some(()) }).await;
        }
        (Act::DeleteTemplate, false) => assert_eq!((snapshots().await, host.snapshots().len()), (1, 1)),
        (Act::SignUp, _) => check_mail(api, database).await,
        (Act::Fork, _) => {
            let rows = ids(api).await;
            assert_eq!(rows.len(), if written { 4 } else { 1 });
            for id in rows {
                api.wait_status(&id, "running").await;
            }
            assert_eq!(host.living().len(), if written { 4 } else { 1 });
        }
    }
}

/// What was sent but not noted comes twice; it can be told, and each of them works.
async fn check_mail(api: &Api, database: &Database) {
    let (store, dir) = (database.store(), std::env::temp_dir().join(format!("wrenn-it-{}", database.name)));
    let mails = wait_until("the mail", SOON, || async {
        let owed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM outbound_jobs").fetch_one(store.pool()).await.expect("asked");
        let mails = mails_in(&dir, "activation", "ann@example.com", false);
        (owed == 0 && !mails.is_empty()).then_some(mails)
    })
    .await;
    let id = |mail: &String| mail.lines().find(|line| line.starts_with("Message-ID:")).expect("a line").to_owned();
    assert!(mails.iter().all(|mail| id(mail) == id(&mails[0])), "{mails:?}");
    let answer = api.post("/v1/auth/activate", json!({"token": token_in(&mails[0])})).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let _ = std::fs::remove_dir_all(&dir);
}

async fn killed_at(point: FaultPoint, (act, written): (Act, bool)) {
    eprintln!("killed at {point:?}");
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let (faults, mut told, armed) = trap(point);
    let plane = Plane::start(&database.url, &database, &host, faults).await;
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let api = plane.api(&key);
    let id = prepare(act, &api).await;
    armed.store(true, Ordering::SeqCst);
    let asking = id.clone();
    let asked = tokio::spawn(async move { perform(act, &api, &asking).await });
    tokio::time::timeout(SOON, told.recv())
        .await
        .unwrap_or_else(|_| panic!("{point:?} is never reached"))
        .expect("told");
    plane.kill();
    asked.abort();

    let plane = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    check(act, written, &api, (&host, &database), &id).await;
    for id in ids(&api).await {
        api.delete(&format!("/v1/capsules/{id}")).await;
        api.wait_status(&id, "stopped").await;
    }
    wait_until("the host holds nothing", Duration::from_secs(10), || async { host.living().is_empty().then_some(()) })
        .await;
}

#[tokio::test]
async fn a_kill_between_any_two_steps_loses_nothing() {
    for point in FaultPoint::ALL {
        if let Some(act) = act_of(*point) {
            killed_at(*point, act).await;
        }
    }
}
