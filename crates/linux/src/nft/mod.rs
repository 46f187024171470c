//! nf_tables over netlink: a table with its chains and rules is written as one batch, which the kernel applies wholly or
//! not at all.
//!
//! Owns the few expressions Wrenn's rules need: as types, as messages (`batch`, `expression`) and as the text people read. Knows no sandbox.

mod batch;
mod expression;
mod table;
mod text;

use std::io;

use batch::Batch;
pub use table::{Action, Chain, Family, Hook, Match, Rule, Table, Verdict, flow_mark};

/// NftError says that the kernel refused a batch.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} nf_tables table {table}")]
pub struct NftError {
    act: &'static str,
    table: String,
    source: io::Error,
}

/// Writes the table in the calling thread's network namespace, replacing one of the same name.
///
/// # Errors
/// The kernel refuses a rule, or does not answer in time; the table is as it was.
pub fn replace(table: &Table) -> Result<(), NftError> {
    Batch::replacing(table).commit().map_err(|source| NftError { act: "write", table: table.name.clone(), source })
}

/// Removes the table of family inet in the calling thread's network namespace; one that is not there is no error.
///
/// # Errors
/// The kernel refuses, or does not answer in time.
pub fn remove(name: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.add_table(Family::Inet, name);
    batch.delete_table(Family::Inet, name);
    batch.commit().map_err(|source| NftError { act: "remove", table: name.to_owned(), source })
}
