//! Migrations.

use wrenn_testkit::Database;

#[tokio::test]
async fn many_processes_may_migrate_at_once_and_again() {
    let database = Database::empty().await;
    let stores: Vec<_> = (0..6).map(|_| database.store()).collect();
    for done in futures::future::join_all(stores.iter().map(|s| s.migrate())).await {
        done.expect("migrated");
    }
    stores[0].migrate().await.expect("nothing to do");
    stores[0].ping().await.expect("answers");
}

#[tokio::test]
async fn a_schema_of_a_later_version_is_refused_rather_than_touched() {
    let database = Database::fresh().await;
    let store = database.store();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', true, '\\x00', 0)",
    )
    .execute(store.pool())
    .await
    .expect("a row");
    let error = store.migrate().await.expect_err("refused");
    assert!(!error.is_away(), "{error}");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_connecting() {
    assert!(wrenn_store::Store::new(&wrenn_store::StoreOptions::new("no url")).is_err());
}
