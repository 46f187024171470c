//! A fresh database and a Redis prefix of its own for one test.
//!
//! Databases are copied from a template that was migrated once per schema; they go with the cluster.

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use wrenn_store::{Store, StoreOptions};

use crate::services::{Services, rand_u32, shared};

/// One test's database.
#[derive(Debug, Clone)]
pub struct Database {
    /// `DATABASE_URL`.
    pub url: String,
    /// Its name.
    pub name: String,
    /// `REDIS_URL`.
    pub redis_url: String,
    /// Put before every Redis key and channel.
    pub redis_prefix: String,
}

impl Database {
    /// Makes one with the schema in place.
    pub fn fresh() -> BoxFuture<'static, Self> {
        made(true)
    }

    /// Makes one without any table.
    pub fn empty() -> BoxFuture<'static, Self> {
        made(false)
    }

    /// A store on it.
    pub fn store(&self) -> Store {
        Store::new(&StoreOptions { connections_max: 8, ..StoreOptions::new(&self.url) })
            .expect("the URL is well formed")
    }
}

/// Boxed: it would be compiled once more in every test program.
fn made(with_schema: bool) -> BoxFuture<'static, Database> {
    make(with_schema).map(|made| made.unwrap_or_else(|error| panic!("a database for the test: {error:#}"))).boxed()
}

async fn make(with_schema: bool) -> anyhow::Result<Database> {
    let services = tokio::task::spawn_blocking(shared).await.context("test services")?;
    let name = format!("test_{}_{:08x}", std::process::id(), rand_u32());
    let mut admin = connect(services).await?;
    let template = if with_schema { ensure_template(services, &mut admin).await? } else { "template0".to_owned() };
    // Names are made above from digits and letters only.
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template}")))
        .execute(&mut admin)
        .await
        .context("copy the template")?;
    admin.close().await?;
    Ok(Database {
        url: services.database_url(&name),
        redis_url: services.redis_url(),
        redis_prefix: format!("{name}:"),
        name,
    })
}

async fn connect(services: &Services) -> anyhow::Result<PgConnection> {
    PgConnection::connect(&services.database_url("postgres")).await.context("connect to the test PostgreSQL")
}

async fn ensure_template(services: &Services, admin: &mut PgConnection) -> anyhow::Result<String> {
    let name = format!("wrenn_template_{}", Store::schema_fingerprint());
    sqlx::query("SELECT pg_advisory_lock(815)").execute(&mut *admin).await?;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut *admin)
        .await?;
    if !there {
        let raw = format!("{name}_raw");
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {raw} WITH (FORCE)"))).execute(&mut *admin).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {raw} TEMPLATE template0"))).execute(&mut *admin).await?;
        let store = Store::new(&StoreOptions { connections_max: 1, ..StoreOptions::new(services.database_url(&raw)) })?;
        store.migrate().await?;
        store.close().await;
        sqlx::query(AssertSqlSafe(format!("ALTER DATABASE {raw} RENAME TO {name}"))).execute(&mut *admin).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock(815)").execute(&mut *admin).await?;
    Ok(name)
}
