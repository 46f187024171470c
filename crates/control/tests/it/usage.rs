//! What capsules and teams use, over HTTP.

use chrono::{Days, Utc};
use serde_json::{Value, json};
use wrenn_contract::proto::wrenn::host::v1::MetricPoint;
use wrenn_testkit::wait_until;

use crate::harness::{Plane, SOON, World, new_key};

fn point(ago_secs: i64, cpu: u32) -> MetricPoint {
    MetricPoint {
        at_unix: Utc::now().timestamp() - ago_secs,
        cpu_hundredths: cpu,
        memory_bytes: 200 << 20,
        disk_bytes: 3 << 20,
        ..Default::default()
    }
}

#[tokio::test]
async fn metrics_come_from_the_host_while_a_capsule_runs_and_while_it_is_paused() {
    let world = World::start().await;
    world.host.behave(|b| {
        b.points = vec![point(7000, 100), point(400, 5025), point(10, 10_000)];
        b.disk_bytes = 5 << 20;
    });
    let id = world.api.create_running().await;
    let path = format!("/v1/capsules/{id}/metrics");
    let get = async |query: &str| world.api.get(&format!("{path}{query}")).await;
    let shown = get("").await.json();
    assert_eq!((shown["sandbox_id"].as_str(), shown["range"].as_str()), (Some(&*id), Some("10m")));
    assert_eq!(shown["points"].as_array().map(Vec::len), Some(2));
    let first = &shown["points"][0];
    assert_eq!((first["cpu_pct"].as_f64(), first["mem_bytes"].as_i64()), (Some(50.25), Some(200 << 20)));
    assert_eq!(first["disk_bytes"], 3 << 20);
    assert!(first["timestamp_unix"].as_i64().is_some_and(|at| (Utc::now().timestamp() - at - 400).abs() < 30));
    let counts = [("5m", 1), ("10m", 2), ("1h", 2), ("2h", 3), ("6h", 3), ("12h", 3), ("24h", 3)];
    for (range, count) in counts {
        let shown = get(&format!("?range={range}")).await.json();
        assert_eq!((shown["range"].as_str(), shown["points"].as_array().map(Vec::len)), (Some(range), Some(count)));
    }
    for bad in ["?range=7m", "?range=", "?range=10M"] {
        get(bad).await.is_error(400, "invalid_request");
    }
    let whole = world.api.get(&format!("/v1/capsules/{id}")).await.json();
    assert_eq!(whole["disk_used_mb"], 5);
    let listed = world.api.get("/v1/capsules").await.json();
    assert!(listed[0].get("disk_used_mb").is_none(), "a list asks no host");
    world.api.act(&id, "pause").await;
    world.api.wait_status(&id, "paused").await;
    assert_eq!(get("?range=1h").await.json()["points"].as_array().map(Vec::len), Some(2));
    let other = new_key(&world.database, "other").await;
    world.plane.api(&other).get(&path).await.is_error(404, "not_found");
    // A host that is away is missed by nobody who only looks.
    world.host.down().await;
    get("").await.is_error(503, "host_unavailable");
    assert_eq!(world.api.get(&format!("/v1/capsules/{id}")).await.status, 200);
    world.host.up().await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    world.api.wait_status(&id, "stopped").await;
    get("").await.is_error(404, "not_found");
    world.api.get("/v1/capsules/cl-0000000000000000000000001/metrics").await.is_error(404, "not_found");
}

async fn stats(world: &World, query: &str) -> Value {
    world.api.get(&format!("/v1/capsules/stats{query}")).await.json()
}

#[tokio::test]
async fn stats_tell_what_the_team_holds_now_lately_and_at_most() {
    let world = World::start().await;
    let empty = stats(&world, "").await;
    assert_eq!(empty["current"], json!({"running_count": 0, "vcpus_reserved": 0, "memory_mb_reserved": 0}));
    let big = world.api.post("/v1/capsules", json!({"vcpus": 3, "memory_mb": 1001})).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    world.api.wait_status(&big, "running").await;
    let small = world.api.create_running().await;
    let full = json!({"running_count": 2, "vcpus_reserved": 4, "memory_mb_reserved": 1513});
    let peaks = json!({"running_count": 2, "vcpus": 4, "memory_mb": 1513});
    let shown = stats(&world, "").await;
    assert_eq!((&shown["range"], &shown["current"], &shown["peaks"]), (&json!("1h"), &full, &peaks));
    world.api.act(&big, "pause").await;
    world.api.wait_status(&big, "paused").await;
    world.api.delete(&format!("/v1/capsules/{small}")).await;
    world.api.wait_status(&small, "stopped").await;
    for (range, count) in [("5m", 100), ("1h", 120), ("6h", 120), ("24h", 120), ("30d", 120)] {
        let shown = stats(&world, &format!("?range={range}")).await;
        let half = json!({"running_count": 0, "vcpus_reserved": 0, "memory_mb_reserved": 501});
        assert_eq!((&shown["range"], &shown["current"], &shown["peaks"]), (&json!(range), &half, &peaks));
        let series = &shown["series"];
        for name in ["labels", "running", "vcpus", "memory_mb"] {
            assert_eq!(series[name].as_array().map(Vec::len), Some(count), "{name}");
        }
        let most = |name: &str| series[name].as_array().and_then(|all| all.iter().filter_map(Value::as_i64).max());
        assert_eq!((most("running"), most("vcpus"), most("memory_mb")), (Some(2), Some(4), Some(1513)));
        assert!(series["labels"][0].as_str().is_some_and(|at| at.ends_with('Z')));
    }
    world.api.get("/v1/capsules/stats?range=2h").await.is_error(400, "invalid_request");
    let other = new_key(&world.database, "other").await;
    let theirs = world.plane.api(&other).get("/v1/capsules/stats").await.json();
    assert_eq!(theirs["peaks"]["running_count"], 0);
}

#[tokio::test]
async fn usage_is_shown_by_day_and_right_while_no_control_plane_runs() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let (today, week) = (Utc::now().date_naive(), Utc::now().date_naive() - Days::new(6));
    let days = world.api.get("/v1/capsules/usage").await.json();
    assert_eq!((days["to"].as_str(), days["points"].as_array().map(Vec::len)), (Some(&*today.to_string()), Some(30)));
    // It runs since two hours, and its host pauses it one hour ago while nobody listens.
    let store = world.database.store();
    sqlx::query("UPDATE sandbox_spans SET began_at = now() - interval '2 hours'")
        .execute(store.pool())
        .await
        .expect("aged");
    let World { database, host, plane, key, .. } = world;
    plane.kill();
    host.say(&id, |report| report.phase_since_ms = (Utc::now() - chrono::TimeDelta::hours(1)).timestamp_millis());
    host.pause_by_timeout(&id);
    let plane = Plane::start(&database.url, &database, &host, wrenn_control::fault::Faults::default()).await;
    let api = plane.api(&key);
    api.wait_status(&id, "paused").await;
    let query = format!("/v1/capsules/usage?from={week}&to={today}");
    let days = api.get(&query).await.json();
    assert_eq!((days["from"].as_str(), days["points"].as_array().map(Vec::len)), (Some(&*week.to_string()), Some(7)));
    let sum = |name: &str| -> f64 {
        days["points"].as_array().expect("days").iter().filter_map(|day| day[name].as_f64()).sum()
    };
    assert!((sum("cpu_minutes") - 60.0).abs() < 1.0, "{days}");
    assert!((sum("ram_mb_minutes") - 60.0 * 512.0).abs() < 512.0, "{days}");
    wait_until("nothing is added while it is paused", SOON, || async {
        let again = api.get(&query).await.json();
        (again == days).then_some(())
    })
    .await;
    for bad in ["from=2026-02-30", "from=2026-03-02&to=2026-03-01", "from=2026-01-01&to=2026-04-04", "to=1", "from="] {
        api.get(&format!("/v1/capsules/usage?{bad}")).await.is_error(400, "invalid_request");
    }
}
