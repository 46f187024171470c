//! Migrations from every older schema with rows in it, and old programs on the new schema.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::migrate::Migrator;
use wrenn_domain::ids::{HostId, OutboundJobId, SandboxId, SnapshotId, TeamId};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::Store;
use wrenn_store::pg::{Change, Changed, JobKind, Lease, OutboundJobKind, Work};
use wrenn_testkit::Database;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Rows as programs of each schema wrote them: the version that brought their tables, and the statements.
const FIXTURES: &[(i64, &str)] = &[
    (1, include_str!("fixtures/0001.sql")),
    (2, include_str!("fixtures/0002.sql")),
    (3, include_str!("fixtures/0003.sql")),
    (10, include_str!("fixtures/0010.sql")),
    (11, include_str!("fixtures/0011.sql")),
    (14, include_str!("fixtures/0014.sql")),
    (15, include_str!("fixtures/0015.sql")),
];

fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

/// A database with the schema as it was at `version`, and rows in all of its tables.
async fn at(version: i64) -> (Database, Store) {
    let database = Database::empty().await;
    let store = database.store();
    let older: Vec<_> = MIGRATIONS.iter().filter(|m| m.version <= version).cloned().collect();
    let older = Migrator { migrations: Cow::Owned(older), ..Migrator::DEFAULT };
    older.run(store.pool()).await.expect("the older schema");
    for (_, sql) in FIXTURES.iter().filter(|(since, _)| *since <= version) {
        sqlx::raw_sql(*sql).execute(store.pool()).await.expect("rows");
    }
    (database, store)
}

/// Rows of each table, by its name. A renamed table counts under its new name; views are not tables.
async fn counts(store: &Store) -> Vec<(String, i64)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name NOT LIKE '\\_sqlx%' ORDER BY 1",
    )
    .fetch_all(store.pool())
    .await
    .expect("tables");
    let mut all = Vec::new();
    for table in tables {
        let count = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
        let name = if table == "errands" { "outbound_jobs".to_owned() } else { table };
        all.push((name, count.fetch_one(store.pool()).await.expect("a count")));
    }
    all
}

#[tokio::test]
async fn rows_of_every_older_schema_are_whole_and_readable_after_the_rest_of_the_migrations() {
    for version in MIGRATIONS.iter().map(|m| m.version) {
        let (_database, store) = at(version).await;
        let before = counts(&store).await;
        store.migrate().await.unwrap_or_else(|error| panic!("from {version}: {error:?}"));
        let after = counts(&store).await;
        for (table, count) in &before {
            // The usage of living sandboxes begins with the migration that brought usage.
            let now = after.iter().find(|(name, _)| name == table).map(|(_, count)| *count);
            assert_eq!(now, Some(*count), "{table} from {version}");
        }
        readable(&store, version).await;
        triggers_work(&store, version).await;
    }
}

async fn readable(store: &Store, version: i64) {
    let (team, host) = (TeamId::from_uuid(uuid(1)), HostId::from_uuid(uuid(2)));
    let (rows, more) = store.sandbox_list(team).await.expect("listed");
    assert!(!more && rows.iter().any(|row| row.id.uuid() == uuid(10)), "from {version}: {rows:?}");
    assert!(store.host_list().await.expect("listed").iter().any(|row| row.id == host), "from {version}");
    assert!(!store.template_list(team, None).await.expect("listed").is_empty(), "from {version}");
    let lease = Lease { owner: uuid(99), keep: Duration::from_secs(60) };
    let starting = store.work_claim(Work::Start, lease, 10).await.expect("claimed");
    assert_eq!(starting.len(), 1, "from {version}: the one that was starting is driven on");
    if version >= 2 {
        let user = store.user_by_email(&"ann@example.com".parse().expect("an address")).await.expect("asked");
        assert!(user.is_some(), "from {version}");
    }
    if version >= 10 {
        let job = store.job_claim_one(JobKind::Capture, lease, SnapshotId::from_uuid(uuid(30)).job()).await;
        assert!(job.expect("asked").is_some(), "from {version}");
    }
    if version >= 14 {
        let jobs = store.outbound_job_claim(OutboundJobKind::Mail, lease, 10).await.expect("claimed");
        assert_eq!(jobs.len(), 1, "from {version}: one waits, one was given up");
    }
    if version >= 15 {
        let works = store.channel_claim(lease, 10).await.expect("claimed");
        assert_eq!(works.len(), 1, "from {version}");
    }
}

/// The triggers see changes of rows that are older than they.
async fn triggers_work(store: &Store, version: i64) {
    let id = SandboxId::from_uuid(uuid(10));
    let row = store.sandbox_list_by_id(&[id]).await.expect("read").pop().expect("a row");
    let paused = Change { state: Some(SandboxState::Paused), ..Change::default() };
    let changed = store.sandbox_change(id, row.generation, &paused).await.expect("changed");
    assert!(matches!(changed, Changed::Applied(_)), "from {version}: {changed:?}");
    let moves: Vec<(String, String)> = sqlx::query_as(
        "SELECT from_state, to_state FROM sandbox_moves WHERE sandbox_id = $1 ORDER BY seq DESC LIMIT 1",
    )
    .bind(id.uuid())
    .fetch_all(store.pool())
    .await
    .expect("moves");
    assert_eq!(moves, [("running".to_owned(), "paused".to_owned())], "from {version}");
    let open: Vec<String> =
        sqlx::query_scalar("SELECT kind FROM sandbox_spans WHERE sandbox_id = $1 AND ended_at IS NULL")
            .bind(id.uuid())
            .fetch_all(store.pool())
            .await
            .expect("spans");
    assert_eq!(open, ["paused"], "from {version}");
}

/// What programs of the release before send to `errands`.
#[tokio::test]
async fn programs_of_the_release_before_go_on_with_outbound_jobs_under_their_old_name() {
    let store = Database::fresh().await.store();
    let put =
        "INSERT INTO errands (id, kind, key, payload) VALUES ($1, 'mail', 'reset:a', '{}') ON CONFLICT DO NOTHING";
    for id in [uuid(1), uuid(1), uuid(2)] {
        sqlx::query(put).bind(id).execute(store.pool()).await.expect("written");
    }
    let claim = "WITH due AS (
           SELECT id FROM errands WHERE kind = 'mail' AND died_at IS NULL AND next_attempt_at <= now()
             AND (lease_until IS NULL OR lease_until < now())
           ORDER BY next_attempt_at LIMIT 10 FOR UPDATE SKIP LOCKED)
         UPDATE errands e SET lease_owner = $1, lease_until = now() + interval '1 minute', attempts = attempts + 1
         FROM due WHERE e.id = due.id RETURNING e.id";
    let claimed: Vec<uuid::Uuid> =
        sqlx::query_scalar(claim).bind(uuid(7)).fetch_all(store.pool()).await.expect("claimed");
    assert_eq!(claimed, [uuid(1)], "one of a key waits");
    let lease = Lease { owner: uuid(8), keep: Duration::from_secs(60) };
    let (kind, id) = (OutboundJobKind::Mail, OutboundJobId::from_uuid(uuid(1)));
    assert!(store.outbound_job_claim_one(kind, lease, id).await.expect("asked").is_none(), "the old program holds it");
    let dead = "UPDATE errands SET died_at = now(), error = 'no', lease_owner = NULL WHERE id = $1 AND died_at IS NULL";
    sqlx::query(dead).bind(uuid(1)).execute(store.pool()).await.expect("given up");
    sqlx::query(put).bind(uuid(2)).execute(store.pool()).await.expect("written");
    assert!(
        store.outbound_job_claim_one(kind, lease, OutboundJobId::from_uuid(uuid(2))).await.expect("asked").is_some()
    );
    sqlx::query("DELETE FROM errands").execute(store.pool()).await.expect("deleted");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbound_jobs").fetch_one(store.pool()).await.expect("asked");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn every_table_says_in_the_database_what_it_holds() {
    let store = Database::fresh().await.store();
    let silent: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
           AND relname NOT LIKE '\\_sqlx%' AND obj_description(oid, 'pg_class') IS NULL",
    )
    .fetch_all(store.pool())
    .await
    .expect("asked");
    assert!(silent.is_empty(), "COMMENT ON is missing for {silent:?}");
}
