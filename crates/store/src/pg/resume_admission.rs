//! Letting a sandbox that holds no memory run again: its host's room is counted under the host's lock, as at its birth.
//!
//! Owner of: nothing; the row is changed by sandboxes.rs inside the transaction made here.

use sqlx::Row;
use wrenn_domain::quota::Usage;

use super::placement::{load, load_where};
use super::quota::{Judged, Quota, QuotaRefusal, judge};
use super::sandboxes::change_row;
use super::{Change, Changed, HostLoad, Sandbox};
use crate::{Store, StoreError};

/// How a readmission ended.
#[derive(Debug, Clone)]
pub enum Readmitted {
    /// There was room, and this became of the change.
    Room(Changed),
    /// The host has no room now.
    Full,
    /// The team may not use as much.
    Refused(QuotaRefusal),
    /// The host is not there, so nothing can be said about its room.
    HostAway,
}

impl Store {
    /// Changes a sandbox as [`Store::sandbox_change`] does if `fits` says that its host has room for it, and `quota` that its team may.
    /// Its own row must be
    /// one that counts for nothing (paused or error).
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn sandbox_readmit(
        &self,
        sandbox: &Sandbox,
        change: &Change,
        fits: impl Fn(&HostLoad) -> bool,
        quota: &dyn Quota,
    ) -> Result<Readmitted, StoreError> {
        let fits = &fits;
        let Some(host) = sandbox.host else { return Ok(Readmitted::HostAway) };
        self.run("let a sandbox run again", || async move {
            let mut tx = self.pool.begin().await?;
            // The team before the host, as at its birth.
            let more = Usage {
                sandboxes: 1,
                // It was kept before.
                kept: 0,
                vcpus: u64::from(sandbox.vcpus.get()),
                memory_mib: u64::from(sandbox.memory.get()),
            };
            match judge(&mut tx, sandbox.team, more, quota).await? {
                Judged::Free => {}
                Judged::TeamGone => return Ok(Readmitted::Room(Changed::Gone)),
                Judged::Refused(refusal) => return Ok(Readmitted::Refused(refusal)),
            }
            let locked =
                sqlx::query("SELECT status IN ('online', 'draining') AS here FROM hosts WHERE id = $1 FOR UPDATE")
                    .bind(host.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            // A host that takes nothing new still takes back what it has.
            if !locked.map(|row| row.try_get::<bool, _>("here")).transpose()?.unwrap_or(false) {
                return Ok(Readmitted::HostAway);
            }
            let row = sqlx::query(load_where!("h.id = $1")).bind(host.uuid()).fetch_one(&mut *tx).await?;
            if !fits(&load(&row)?) {
                return Ok(Readmitted::Full);
            }
            let changed = change_row(&mut tx, sandbox.id, sandbox.generation, change).await?;
            tx.commit().await?;
            Ok(Readmitted::Room(changed))
        })
        .await
    }
}
