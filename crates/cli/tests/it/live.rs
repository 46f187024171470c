//! `wrenn events`, `top`, `usage` and `capsule metrics`.

use chrono::Utc;
use wrenn_contract::proto::wrenn::host::v1::MetricPoint;
use wrenn_testkit::wait_until;

use crate::world::{RUN_MAX, World};

#[tokio::test]
async fn events_are_followed_over_a_restart_of_the_server_and_asked_for_by_id() {
    let mut world = World::start().await;
    let mut following = world.follow(&["--json", "events", "--follow"]);
    let id = following.until(&mut world, "capsule.create").await;
    world.restart().await;
    world.done(&["capsule", "pause", &id.1]).await;
    let (paused, capsule) = following.next("capsule.pause").await;
    assert_eq!(capsule, id.1, "what happened while it was away, and after");
    world.done(&["capsule", "rm", &id.1, "--wait"]).await;
    let missed = world.done(&["events", "--since", &id.0]).await;
    let kinds: Vec<&str> = missed.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    assert_eq!(kinds, ["capsule.pause", "capsule.destroy"], "{missed}");
    assert!(missed.contains("by test") && missed.contains(&id.1), "{missed}");
    let last = world.done(&["events", "--since", &paused]).await;
    assert_eq!(last.lines().count(), 1, "{last}");
    let ran = world.run(&["events", "--since", "17"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[tokio::test]
async fn top_metrics_and_usage_show_what_hosts_measured() {
    let world = World::start().await;
    assert!(world.done(&["top"]).await.contains("No capsules"));
    let measured = |ago: i64, cpu| MetricPoint {
        at_unix: Utc::now().timestamp() - ago,
        cpu_hundredths: cpu,
        memory_bytes: 100 << 20,
        disk_bytes: 9 << 20,
        ..Default::default()
    };
    world.host.behave(|b| b.points = vec![measured(60, 100), measured(1, 4250)]);
    let id = world.done(&["capsule", "create"]).await;
    let table = world.done(&["top"]).await;
    assert!(table.contains(&id) && table.contains("42.5 % of 1") && table.contains("100 of 512 MiB"), "{table}");
    assert_eq!(world.json(&["top", "--once"]).await[0]["used"]["cpu_pct"], 42.5);
    let points = world.done(&["capsule", "metrics", &id]).await;
    assert!(points.lines().count() == 3 && points.contains("1.0 %") && points.contains("9 MiB"), "{points}");
    assert_eq!(world.json(&["capsule", "metrics", &id, "--range", "24h"]).await["range"], "24h");
    let days = world.done(&["usage"]).await;
    assert!(days.starts_with("DAY") && days.contains(&Utc::now().date_naive().to_string()), "{days}");
    let refused = world.refused(&["usage", "--from", "2026-03-02", "--to", "2026-03-01"]).await;
    assert!(refused.contains("later"), "{refused}");
    world.host.behave(|b| b.points.clear());
    wait_until("nothing is known any more", RUN_MAX, || async {
        world.done(&["top"]).await.contains("-  ").then_some(())
    })
    .await;
}
