//! Billing accounts and metered events: the distribution's own tables, one function per query.

use sqlx::{PgConnection, PgPool, Row};
use wrenn_control::extension::{Limits, NewAccount, SandboxEvent, TeamId, UserId};

/// Account of a team.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Account {
    pub email: String,
    pub sandboxes_max: i64,
    /// As the worker counted last.
    pub created_total: i64,
    pub open: bool,
}

/// Brings the tables up to date. The record of migrations is the distribution's own too.
///
/// # Errors
/// When the database cannot be asked.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.dangerous_set_table_name("cloud_migrations");
    migrations.run(pool).await
}

/// Opens the account of a team. Opening it again changes nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn open(pool: &PgPool, account: &NewAccount) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO billing_accounts (team_id, owner_id, email) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(account.team.uuid())
        .bind(account.user.uuid())
        .bind(&account.email)
        .execute(pool)
        .await
        .map(|_| ())
}

/// Notes a login.
///
/// # Errors
/// When the database cannot be asked.
pub async fn seen(pool: &PgPool, user: UserId) -> Result<(), sqlx::Error> {
    run(pool, "UPDATE billing_accounts SET last_login_at = now() WHERE owner_id = $1", user).await
}

/// Closes a user's accounts: no more sandboxes, no more bills.
///
/// # Errors
/// When the database cannot be asked.
pub async fn close(pool: &PgPool, user: UserId) -> Result<(), sqlx::Error> {
    run(pool, "UPDATE billing_accounts SET closed_at = now(), sandboxes_max = 0 WHERE owner_id = $1", user).await
}

/// Removes what is left of them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn remove(pool: &PgPool, user: UserId) -> Result<(), sqlx::Error> {
    run(pool, "DELETE FROM billing_accounts WHERE owner_id = $1", user).await
}

async fn run(pool: &PgPool, statement: &'static str, user: UserId) -> Result<(), sqlx::Error> {
    sqlx::query(statement).bind(user.uuid()).execute(pool).await.map(|_| ())
}

/// Notes an event, once however often it is delivered.
///
/// # Errors
/// When the database cannot be asked.
pub async fn meter(pool: &PgPool, event: &SandboxEvent) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO billing_events (event_id, team_id, sandbox_id, kind, occurred_at)
         VALUES ($1, $2, $3, $4, to_timestamp($5)) ON CONFLICT DO NOTHING",
    )
    .bind(event.id.to_string())
    .bind(event.team.uuid())
    .bind(event.sandbox.to_string())
    .bind(format!("{:?}", event.kind))
    .bind(event.occurred_at.timestamp_micros() as f64 / 1e6)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Reads what a team may use; teams without an account (made later by hand) get the smallest plan.
///
/// # Errors
/// When the database cannot be asked.
pub async fn limits(pool: &PgPool, team: TeamId) -> Result<Limits, sqlx::Error> {
    let row = sqlx::query("SELECT sandboxes_max, vcpus_max, memory_mib_max FROM billing_accounts WHERE team_id = $1")
        .bind(team.uuid())
        .fetch_optional(pool)
        .await?;
    let bound = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    Ok(match row {
        None => Limits { sandboxes_max: Some(1), ..Limits::NONE },
        Some(row) => Limits {
            sandboxes_max: bound(Some(row.try_get("sandboxes_max")?)),
            vcpus_max: bound(row.try_get("vcpus_max")?),
            memory_mib_max: bound(row.try_get("memory_mib_max")?),
            ..Limits::NONE
        },
    })
}

/// Sells a team another plan, inside the caller's transaction. Answers who pays; none when it has no account.
///
/// # Errors
/// When the database cannot be asked.
pub async fn set_plan(tx: &mut PgConnection, team: TeamId, sandboxes_max: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("UPDATE billing_accounts SET sandboxes_max = $2 WHERE team_id = $1 RETURNING email")
        .bind(team.uuid())
        .bind(sandboxes_max)
        .fetch_optional(tx)
        .await
}

/// A team's account.
///
/// # Errors
/// When the database cannot be asked.
pub async fn account(pool: &PgPool, team: TeamId) -> Result<Option<Account>, sqlx::Error> {
    let row =
        sqlx::query("SELECT * FROM billing_accounts WHERE team_id = $1").bind(team.uuid()).fetch_optional(pool).await?;
    row.map(|row| {
        Ok(Account {
            email: row.try_get("email")?,
            sandboxes_max: row.try_get("sandboxes_max")?,
            created_total: row.try_get("created_total")?,
            open: row
                .try_get::<Option<sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc>>, _>("closed_at")?
                .is_none(),
        })
    })
    .transpose()
}

/// Counts what each team created.
///
/// # Errors
/// When the database cannot be asked.
pub async fn count(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE billing_accounts a SET created_total = n.total
         FROM (SELECT team_id, count(*) AS total FROM billing_events WHERE kind = 'Created' GROUP BY team_id) n
         WHERE n.team_id = a.team_id AND a.created_total <> n.total",
    )
    .execute(pool)
    .await
    .map(|_| ())
}
