//! How much a team used: exact, whoever looked when.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use uuid::Uuid;
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::Store;
use wrenn_store::pg::{Capture, Change, Changed, Level, ReportMark, Sandbox};
use wrenn_testkit::Database;

use crate::rows::{host, place, team, wish};

async fn to(store: &Store, row: &Sandbox, change: Change) -> Sandbox {
    match store.sandbox_change(row.id, row.generation, &change).await.expect("asked") {
        Changed::Applied(row) => *row,
        other => panic!("{other:?}"),
    }
}

fn state(state: SandboxState) -> Change {
    Change { state: Some(state), ..Change::default() }
}

/// Kinds of a sandbox's spans in order, an open one with a plus; they must join without a hole or an overlap where they touch.
async fn spans(store: &Store, id: SandboxId) -> Vec<String> {
    let rows: Vec<(String, DateTime<Utc>, Option<DateTime<Utc>>)> =
        sqlx::query_as("SELECT kind, began_at, ended_at FROM sandbox_spans WHERE sandbox_id = $1 ORDER BY seq")
            .bind(id.uuid())
            .fetch_all(store.pool())
            .await
            .expect("read");
    assert!(rows.windows(2).all(|two| two[0].2.is_some_and(|end| end <= two[1].1)), "{rows:?}");
    rows.into_iter().map(|(kind, _, end)| if end.is_none() { format!("{kind}+") } else { kind }).collect()
}

#[tokio::test]
async fn spans_follow_the_state_and_a_snapshot_changes_nothing_of_them() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    assert_eq!(spans(&store, row.id).await, ["running+"]);
    let row = to(&store, &row, state(SandboxState::Running)).await;
    let row = to(&store, &row, state(SandboxState::Pausing)).await;
    assert_eq!(spans(&store, row.id).await, ["running+"], "one span for all of it");
    let row = to(&store, &row, state(SandboxState::Paused)).await;
    assert_eq!(spans(&store, row.id).await, ["running", "paused+"]);
    let capture = Capture { id: wrenn_domain::ids::SnapshotId::from_uuid(Uuid::new_v4()), from_paused: true };
    let row = to(&store, &row, Change { capture: Some(capture), ..state(SandboxState::Snapshotting) }).await;
    assert_eq!(spans(&store, row.id).await, ["running", "paused+"], "captured where it lies");
    let row = to(&store, &row, state(SandboxState::Paused)).await;
    let row = to(&store, &row, state(SandboxState::Resuming)).await;
    let row = to(&store, &row, state(SandboxState::Running)).await;
    let row = to(&store, &row, state(SandboxState::Missing)).await;
    assert_eq!(spans(&store, row.id).await, ["running", "paused", "running"], "nobody can use a missing one");
    let row = to(&store, &row, state(SandboxState::Running)).await;
    let row = to(&store, &row, state(SandboxState::Stopping)).await;
    assert_eq!(spans(&store, row.id).await, ["running", "paused", "running", "running"]);
    let row = to(&store, &row, state(SandboxState::Stopped)).await;
    assert_eq!(spans(&store, row.id).await.len(), 4);
}

/// The host paused it while no control plane ran, and says when.
#[tokio::test]
async fn use_ends_when_the_host_ended_it_and_not_when_somebody_heard_of_it() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let row = to(&store, &row, state(SandboxState::Running)).await;
    sqlx::query("UPDATE sandbox_spans SET began_at = now() - interval '3 hours'")
        .execute(store.pool())
        .await
        .expect("aged");
    let since = Utc::now() - TimeDelta::hours(1);
    let report = ReportMark { generation: 1, since: Some(since), ..ReportMark::default() };
    let row = to(&store, &row, Change { report: Some(report), ..state(SandboxState::Paused) }).await;
    let hours: f64 = sqlx::query_scalar(
        "SELECT (extract(epoch FROM ended_at - began_at) / 3600)::double precision FROM sandbox_spans WHERE kind = 'running'",
    )
    .fetch_one(store.pool())
    .await
    .expect("read");
    assert!((hours - 2.0).abs() < 0.01, "{hours}");
    // A clock that is wrong moves nothing beyond what is known: neither before the span's begin nor after now.
    for (wrong, kinds) in [(-48, 3), (48, 4)] {
        let row = store.sandbox_get(team, row.id).await.expect("asked").expect("there");
        let next = if row.state == SandboxState::Paused { SandboxState::Running } else { SandboxState::Paused };
        let since = Some(Utc::now() + TimeDelta::hours(wrong));
        let report = ReportMark { generation: row.generation, since, ..ReportMark::default() };
        to(&store, &row, Change { report: Some(report), ..state(next) }).await;
        assert_eq!(spans(&store, row.id).await.len(), kinds);
    }
    let ahead: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sandbox_spans WHERE greatest(began_at, ended_at) > now()")
            .fetch_one(store.pool())
            .await
            .expect("counted");
    assert_eq!(ahead, 0);
}

/// A span that was, in hours before now; open when it has no end.
async fn span(
    store: &Store,
    team: TeamId,
    kind: &str,
    vcpus: i32,
    memory: i32,
    began: DateTime<Utc>,
    ended: Option<DateTime<Utc>>,
) {
    sqlx::query(
        "INSERT INTO sandbox_spans (sandbox_id, team_id, kind, vcpus, memory_mib, began_at, ended_at)
         VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6)",
    )
    .bind(team.uuid())
    .bind(kind)
    .bind(vcpus)
    .bind(memory)
    .bind(began)
    .bind(ended)
    .execute(store.pool())
    .await
    .expect("written");
}

#[tokio::test]
async fn levels_are_the_most_of_each_bucket_and_carried_over_those_without_a_change() {
    let store = Database::fresh().await.store();
    let (team, other) = (team(&store).await, team(&store).await);
    let ago = |minutes: i64| Utc::now() - TimeDelta::minutes(minutes);
    span(&store, team, "running", 2, 512, ago(600), None).await;
    span(&store, team, "paused", 4, 1001, ago(600), None).await;
    // A short peak in the last hour, and a higher one days ago.
    span(&store, team, "running", 1, 100, ago(31), Some(ago(30))).await;
    span(&store, team, "running", 30, 4096, ago(3 * 24 * 60), Some(ago(3 * 24 * 60 - 1))).await;
    span(&store, other, "running", 99, 9999, ago(600), None).await;
    let series = store.team_levels(team, 30, 120, 30).await.expect("read");
    let steady = Level { running: 1, vcpus: 2, memory_mib: 512 + 501 };
    assert_eq!(series.current, steady);
    assert_eq!(series.peaks, Level { running: 2, vcpus: 30, memory_mib: 4096 }, "each by itself");
    assert_eq!(series.buckets.len(), 120);
    assert!(series.buckets.windows(2).all(|two| (two[1].0 - two[0].0).num_seconds() == 30));
    let (newest, now) = (series.buckets[119].0, Utc::now());
    assert!(newest <= now && now < newest + TimeDelta::seconds(35), "{newest}");
    let peak = Level { running: 2, vcpus: 3, memory_mib: 1113 };
    let high = series.buckets.iter().filter(|(_, level)| *level == peak).count();
    assert!((2..=4).contains(&high), "{high}");
    assert!(series.buckets.iter().all(|(_, level)| *level == peak || *level == steady), "{:?}", series.buckets);
    let month = store.team_levels(team, 21_600, 120, 30).await.expect("read");
    assert_eq!(month.buckets.iter().map(|(_, level)| level.vcpus).max(), Some(30));
    assert_eq!(month.buckets[0].1, Level::default());
    let nobody = store.team_levels(TeamId::from_uuid(Uuid::new_v4()), 3, 100, 30).await.expect("read");
    assert!(nobody.buckets.iter().all(|(_, level)| *level == Level::default()));
}

/// Noon of a day so many days ago.
fn noon(days_ago: u64) -> DateTime<Utc> {
    day(days_ago).and_hms_opt(12, 0, 0).expect("noon").and_utc()
}

fn day(days_ago: u64) -> NaiveDate {
    Utc::now().date_naive() - Days::new(days_ago)
}

#[tokio::test]
async fn use_is_counted_by_utc_days_and_adding_it_up_changes_no_number() {
    let store = Database::fresh().await.store();
    let (team, other) = (team(&store).await, team(&store).await);
    // From noon to noon over two midnights, two vCPUs; paused time counts for nothing.
    span(&store, team, "running", 2, 1024, noon(4), Some(noon(2))).await;
    span(&store, team, "paused", 2, 1024, noon(2), Some(noon(1))).await;
    span(&store, other, "running", 1, 512, noon(3), None).await;
    let hours = async |team, from: u64, to: u64| -> Vec<(f64, f64)> {
        let days = store.usage_days(team, day(from), day(to)).await.expect("read");
        assert!(days.iter().zip(0..).all(|(one, index)| one.day == day(from - index)));
        let hours = |seconds: f64| (seconds / 36.0).round() / 100.0;
        days.iter().map(|one| (hours(one.vcpu_seconds), hours(one.memory_mib_seconds / 1024.0))).collect()
    };
    let expected = [(0.0, 0.0), (24.0, 12.0), (48.0, 24.0), (24.0, 12.0), (0.0, 0.0)];
    assert_eq!(hours(team, 5, 1).await, expected);
    assert_eq!(hours(other, 3, 1).await, [(12.0, 6.0), (24.0, 12.0), (24.0, 12.0)], "one that lasts counts too");
    let today = store.usage_days(other, day(0), day(0)).await.expect("read")[0];
    let since = (Utc::now() - day(0).and_hms_opt(0, 0, 0).expect("midnight").and_utc()).as_seconds_f64();
    assert!((today.vcpu_seconds - since).abs() < 5.0, "{} {since}", today.vcpu_seconds);
    let mut rolled = Vec::new();
    while let Some(day) = store.usage_roll_one(Duration::ZERO).await.expect("rolled") {
        rolled.push(day);
    }
    assert_eq!(rolled, [day(4), day(3), day(2), day(1)], "every day once, in order, but not today");
    assert_eq!(hours(team, 5, 1).await, expected, "the same out of sums");
    store.usage_sweep(Duration::ZERO, Duration::from_secs(86_400 * 30)).await.expect("swept");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sandbox_spans").fetch_one(store.pool()).await.expect("counted");
    assert_eq!(left, 1, "only the one that lasts is left");
    assert_eq!(hours(team, 5, 1).await, expected, "and without spans");
    assert_eq!(hours(other, 3, 1).await.len(), 3);
    let today_again = store.usage_days(other, day(0), day(0)).await.expect("read")[0];
    assert!(today_again.vcpu_seconds >= today.vcpu_seconds);
    store.usage_sweep(Duration::ZERO, Duration::ZERO).await.expect("swept");
    assert_eq!(hours(team, 5, 1).await, [(0.0, 0.0); 5], "days are forgotten too, much later");
}
