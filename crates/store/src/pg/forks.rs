//! Forks: children of a sandbox, reserved on its host in one transaction with the job that makes them.
//!
//! Owner of: the birth of forked sandboxes rows (parent_id, fork_id) and of fork jobs.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use wrenn_domain::ids::{ForkId, HostId, KeyId, SandboxId, UserId};
use wrenn_domain::quota::Usage;

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::jobs::{self, NewJob};
use super::placement::{load, load_where};
use super::quota::{Judged, Quota, QuotaRefusal, judge};
use super::sandboxes::sandbox;
use super::{HostLoad, JobKind, Sandbox};
use crate::{Store, StoreError};

/// A fork to be made.
#[derive(Debug, Clone)]
pub struct NewFork {
    pub id: ForkId,
    /// Key it was asked with.
    pub key: Option<KeyId>,
    /// Person it was asked by.
    pub user: Option<UserId>,
    /// Author of what is told of the children.
    pub author: Author,
    pub audit: Vec<NewAudit>,
    /// In the order their results are told.
    pub children: Vec<SandboxId>,
}

/// How the wish for a fork ended.
#[derive(Debug, Clone)]
pub enum Forked {
    /// Rows of the first so many children, in order: those the host has room for. With none there is no job.
    Children(Vec<Sandbox>),
    /// The team may not use as much.
    Refused(QuotaRefusal),
    /// The host is not there, so nothing can be said about its room.
    HostAway,
}

impl Store {
    /// Reserves as many children as `fits` allows one after the other, in state starting, and writes the job.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn fork_begin(
        &self,
        source: &Sandbox,
        new: &NewFork,
        fits: impl Fn(&HostLoad) -> bool,
        quota: &dyn Quota,
    ) -> Result<Forked, StoreError> {
        let fits = &fits;
        let Some(host) = source.host else { return Ok(Forked::HostAway) };
        self.run_seen("begin a fork", || async move {
            let mut tx = self.pool.begin().await?;
            // The team before the host, as at any birth.
            let count = new.children.len() as u64;
            let more = Usage {
                sandboxes: count,
                kept: count,
                vcpus: count * u64::from(source.vcpus.get()),
                memory_mib: count * u64::from(source.memory.get()),
            };
            let judged = judge(&mut tx, source.team, more, quota).await?;
            sqlx::query("SELECT id FROM hosts WHERE id = $1 FOR UPDATE").bind(host.uuid()).execute(&mut *tx).await?;
            let known = children(&mut tx, &new.children).await?;
            if !known.is_empty() {
                // Tried again after a commit whose answer was lost.
                return Ok(Forked::Children(known));
            }
            match judged {
                Judged::Free => {}
                // Nobody is left who could be told.
                Judged::TeamGone => return Ok(Forked::HostAway),
                Judged::Refused(refusal) => return Ok(Forked::Refused(refusal)),
            }
            let row = sqlx::query(load_where!("h.id = $1 AND h.status = 'online'"))
                .bind(host.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(mut load) = row.as_ref().map(load).transpose()? else { return Ok(Forked::HostAway) };
            let mut room = 0;
            while room < new.children.len() && fits(&load) {
                load.sandboxes += 1;
                load.vcpus += u64::from(source.vcpus.get());
                load.memory_promised_mib += u64::from(source.memory.get());
                room += 1;
            }
            if room == 0 {
                return Ok(Forked::Children(Vec::new()));
            }
            insert(&mut tx, source, host, new, room).await?;
            let made = children(&mut tx, &new.children).await?;
            let job = NewJob {
                kind: JobKind::Fork,
                id: new.id.job(),
                host,
                sandbox: Some(source.id),
                repeat: Duration::ZERO,
            };
            jobs::insert(&mut tx, &job).await?;
            note(&mut tx, &new.audit).await?;
            tx.commit().await?;
            Ok(Forked::Children(made))
        })
        .await
    }

    /// Children of a fork its host has not confirmed, in an order that stays.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn fork_children(&self, id: ForkId) -> Result<Vec<Sandbox>, StoreError> {
        self.run("list a fork's children", || async {
            let rows = sqlx::query("SELECT * FROM sandboxes WHERE fork_id = $1 ORDER BY id")
                .bind(id.uuid())
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(sandbox).collect()
        })
        .await
    }

    /// The host has answered for every child: from here on they are sandboxes like any other. Changes no generation: nothing of
    /// their state depends on it.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn fork_finish(&self, id: ForkId) -> Result<(), StoreError> {
        self.run("finish a fork", || async {
            let mut tx = self.pool.begin().await?;
            sqlx::query("UPDATE sandboxes SET fork_id = NULL WHERE fork_id = $1")
                .bind(id.uuid())
                .execute(&mut *tx)
                .await?;
            jobs::remove(&mut tx, JobKind::Fork, id.job()).await?;
            tx.commit().await
        })
        .await
    }
}

async fn insert(
    tx: &mut PgConnection,
    source: &Sandbox,
    host: HostId,
    new: &NewFork,
    room: usize,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = new.children.iter().take(room).map(|id| id.uuid()).collect();
    sqlx::query(
        "INSERT INTO sandboxes (id, team_id, host_id, template, template_id, state, desired, vcpus, memory_mib, disk_mib,
           timeout_sec, metadata, created_by_key, snapshot_id, default_user, default_env, parent_id, fork_id,
           created_by_user, requested_by, auto_resume, public_ports)
         SELECT c.id, p.team_id, $3, p.template, p.template_id, 'starting', 'running', p.vcpus, p.memory_mib, p.disk_mib,
           p.timeout_sec, p.metadata, $4, p.snapshot_id, p.default_user, p.default_env, p.id, $5, $6, $7,
           p.auto_resume, p.public_ports
         FROM sandboxes p CROSS JOIN unnest($2::uuid[]) AS c(id) WHERE p.id = $1",
    )
    .bind(source.id.uuid())
    .bind(&ids)
    .bind(host.uuid())
    .bind(new.key.map(KeyId::uuid))
    .bind(new.id.uuid())
    .bind(new.user.map(UserId::uuid))
    .bind(Json(AuthorJson::from(&new.author)))
    .execute(tx)
    .await
    .map(|_| ())
}

/// Rows among the children, in the order given.
async fn children(tx: &mut PgConnection, ids: &[SandboxId]) -> Result<Vec<Sandbox>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = sqlx::query(
        "SELECT s.* FROM unnest($1::uuid[]) WITH ORDINALITY AS c(id, position) JOIN sandboxes s ON s.id = c.id ORDER BY c.position",
    )
    .bind(&ids)
    .fetch_all(tx)
    .await?;
    rows.iter().map(sandbox).collect()
}
