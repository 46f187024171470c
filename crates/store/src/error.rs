//! Why a store call failed, and whether asking again can help.

/// A store call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is not ready; nothing says the request was wrong.
    #[error("the database cannot be reached ({act})")]
    Away {
        act: &'static str,
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The database refused the statement, or a row held what no code of ours writes.
    #[error("the database refused to {act}")]
    Refused {
        act: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// A row that does not parse.
    #[error("cannot {act}: column {column} holds an unknown value")]
    Corrupt { act: &'static str, column: &'static str },
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Sorts a database error by what it means for the caller.
    pub(crate) fn of(act: &'static str, source: sqlx::Error) -> Self {
        if is_away(&source) {
            return Self::Away { act, source: Some(source) };
        }
        Self::Refused { act, source }
    }

    /// The database is away; the same call may work later.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => is_away(error),
            _ => false,
        }
    }
}

/// A column that does not parse, inside a row mapping.
pub(crate) fn corrupt(column: &'static str) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: "unknown value".into() }
}

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // 57P01..57P03: shutting down, crashed, starting up. 53300: too many connections. 25006: read-only standby.
        // 57014: the statement timed out. 08*: connection trouble. 40001, 40P01: lost against another transaction.
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
            matches!(code.as_ref(), "57P01" | "57P02" | "57P03" | "53300" | "25006" | "57014" | "40001" | "40P01")
                || code.starts_with("08")
        }),
        _ => false,
    }
}
