//! The guest's file system as one of its users sees it: who acts, what a path means, and files replaced in one step.
//!
//! All work on files happens on blocking threads, with the acting user's rights as the kernel checks them
//! ([`wrenn_linux::acting`]). envd itself decides nothing about permissions and changes no owner: what a user makes is
//! his because he made it, and what he may not touch the kernel refuses. Where several names are involved, work goes
//! through open directories, so that nobody can swap a parent for a link between a check and its use.
//!
//! Must never: do file work of a call on an async worker, or with root's rights for somebody else.

mod actor;
mod draft;
mod draft_name;
mod entry_path;
mod error;
mod overwrite;
mod write_target;

use std::sync::Arc;

use tokio::sync::Semaphore;
use wrenn_domain::limits::{FILE_TRANSFERS_MAX, FILE_WALKS_MAX};

pub use actor::{Actor, Asker, begin, go_on, job, outcome};
pub use draft::{Attributes, Draft};
pub use draft_name::DraftName;
pub use entry_path::{EntryPath, Parents, canonical, entries, open, open_at, open_without_links, reopen};
pub use error::{DiskError, shown};

/// Places for work that takes long or holds memory; short calls need none.
pub struct Disk {
    /// Uploads and downloads.
    pub transfers: Arc<Semaphore>,
    /// Listings, removals, copies and tree scans: each keeps a blocking thread busy.
    pub walks: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            transfers: Arc::new(Semaphore::new(FILE_TRANSFERS_MAX)),
            walks: Arc::new(Semaphore::new(FILE_WALKS_MAX)),
        }
    }
}
