//! The control plane is killed between every two steps of create and delete, and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use wrenn_control::fault::{FaultPoint, Faults};
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Plane, SOON, host_is_known, new_key};

/// A hook that stops the world at one point, once, and tells.
fn trap(at: FaultPoint) -> (Faults, mpsc::UnboundedReceiver<()>, Arc<AtomicBool>) {
    let (tell, told) = mpsc::unbounded_channel();
    let armed = Arc::new(AtomicBool::new(false));
    let set = armed.clone();
    let faults = Faults::with_hook(Arc::new(move |point| {
        let caught = point == at && set.load(Ordering::SeqCst);
        if caught {
            let _ = tell.send(());
        }
        Box::pin(async move {
            if caught {
                std::future::pending::<()>().await;
            }
        })
    }));
    (faults, told, armed)
}

async fn killed_at(point: FaultPoint) {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let (faults, mut told, armed) = trap(point);
    let plane = Plane::start(&database.url, &database, &host, faults).await;
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let in_delete = matches!(
        point,
        FaultPoint::DeleteAccepted
            | FaultPoint::DeleteStored
            | FaultPoint::StopClaimed
            | FaultPoint::StopCalled
            | FaultPoint::StopNoted
    );
    let before = if in_delete { Some(plane.api(&key).create_running().await) } else { None };
    armed.store(true, Ordering::SeqCst);
    let api = plane.api(&key);
    let asking = before.clone();
    let asked = tokio::spawn(async move {
        match asking {
            Some(id) => api.delete(&format!("/v1/capsules/{id}")).await.status,
            None => api.post("/v1/capsules", json!({})).await.status,
        }
    });
    tokio::time::timeout(SOON, told.recv())
        .await
        .unwrap_or_else(|_| panic!("{point:?} is never reached"))
        .expect("told");
    plane.kill();
    asked.abort();

    let plane = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    match before {
        None => {
            // Accepted but not yet written: then it never was. Written: then it runs.
            let rows = api.get("/v1/capsules").await.json().as_array().cloned().unwrap_or_default();
            let expected = usize::from(point != FaultPoint::CreateAccepted);
            assert_eq!(rows.len(), expected, "{point:?}");
            for row in rows {
                let id = row["id"].as_str().expect("an id").to_owned();
                api.wait_status(&id, "running").await;
                assert_eq!(host.living(), vec![id.clone()], "{point:?}");
                api.delete(&format!("/v1/capsules/{id}")).await;
                api.wait_status(&id, "stopped").await;
            }
        }
        Some(id) => {
            if point == FaultPoint::DeleteAccepted {
                assert_eq!(api.status(&id).await, "running", "{point:?}");
                api.delete(&format!("/v1/capsules/{id}")).await;
            }
            api.wait_status(&id, "stopped").await;
        }
    }
    wait_until("the host holds nothing", Duration::from_secs(10), || async { host.living().is_empty().then_some(()) })
        .await;
}

#[tokio::test]
async fn a_kill_between_any_two_steps_loses_nothing() {
    for point in FaultPoint::ALL {
        killed_at(*point).await;
    }
}
