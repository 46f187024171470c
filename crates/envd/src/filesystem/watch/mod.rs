//! Watching directories: streams and polled watchers over one inotify instance.
//!
//! ```text
//! kernel --inotify--> Hub --> queue of each watcher --> WatchDir stream, or GetWatcherEvents
//! ```
//!
//! Every queue is bounded. Where events were lost, by us or by the kernel, the client finds one event without a name
//! and of unspecified type, and should look at the directory afresh.
//!
//! Nothing runs while nothing is watched: the instance is made for the first watcher, and envd sleeps until the kernel
//! has something to say.

mod event;
mod hub;
mod pending;
mod polled;
mod queue;
mod reader;
mod stream;
mod tree;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statfs::{
    AFS_SUPER_MAGIC, CODA_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, NCP_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC,
    fstatfs,
};
use tokio::sync::OnceCell;
use wrenn_domain::limits::WATCHER_IDLE_MAX;

use crate::disk::{Actor, Asker, DiskError, begin, canonical, open, shown};
pub use event::{Event, EventKind};
use hub::Hub;
use polled::Polled;
pub use queue::Queue;
pub use stream::{keepalive_every, stream};
pub use watched::Watch;

/// File systems whose changes other machines make, which no kernel here hears of. Numbers are those nix has no name for:
/// SMB 2 and 3, CIFS, 9P, Ceph.
const NETWORK: [FsType; 10] = [
    AFS_SUPER_MAGIC,
    CODA_SUPER_MAGIC,
    FUSE_SUPER_MAGIC,
    NCP_SUPER_MAGIC,
    NFS_SUPER_MAGIC,
    SMB_SUPER_MAGIC,
    FsType(0xFE53_4D42),
    FsType(0xFF53_4D42),
    FsType(0x0102_1997),
    FsType(0x00C3_6400),
];

/// Every watcher of this envd.
pub struct Watchers {
    hub: OnceCell<Arc<Hub>>,
    polled: Arc<Polled>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self::new(WATCHER_IDLE_MAX)
    }
}

impl Watchers {
    /// Polled watchers are dropped after `idle_max` without a poll.
    pub fn new(idle_max: Duration) -> Self {
        Self { hub: OnceCell::new(), polled: Arc::new(Polled::new(idle_max)) }
    }

    /// Begins to watch a directory; what happens after this returned is seen.
    ///
    /// # Errors
    /// No directory there, the user may not read it, it is on a network mount, or bounds are reached.
    pub async fn watch(&self, asker: Asker, path: String, recursive: bool) -> Result<Watch, DiskError> {
        let begin_reading = || async {
            let hub = Arc::new(Hub::new()?);
            tokio::spawn(reader::read(Arc::clone(&hub)));
            Ok::<_, DiskError>(hub)
        };
        let hub = Arc::clone(self.hub.get_or_try_init(begin_reading).await?);
        begin(asker, move |actor| start(&hub, actor, actor.path(&path)?, recursive)).await
    }

    /// Begins to watch for a client that polls. Returns the watcher's id.
    ///
    /// # Errors
    /// See [`Self::watch`].
    pub async fn create(&self, asker: Asker, path: String, recursive: bool) -> Result<String, DiskError> {
        let watch = self.watch(asker, path, recursive).await?;
        Ok(Polled::keep(&self.polled, watch))
    }

    /// Takes out what happened since the last poll; `None` for a watcher that is not there (any more).
    pub fn events(&self, id: &str) -> Option<Vec<Event>> {
        self.polled.events(id)
    }

    /// Ends a polled watcher; false when there is none.
    pub fn remove(&self, id: &str) -> bool {
        self.polled.remove(id)
    }
}

fn start(hub: &Arc<Hub>, actor: &Arc<Actor>, path: PathBuf, recursive: bool) -> Result<Watch, DiskError> {
    let dir = match open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK) {
        Err(Errno::ENOTDIR) => return Err(DiskError::NotDirectory(shown(&path))),
        other => other.map_err(DiskError::io("watch", &path))?,
    };
    let kind = fstatfs(&dir).map_err(DiskError::io("watch", &path))?.filesystem_type();
    if NETWORK.contains(&kind) {
        return Err(DiskError::Invalid(format!("{} is on a network mount, which cannot be watched", shown(&path))));
    }
    let root = canonical(&dir).map_err(DiskError::io("watch", &path))?;
    let queue = Arc::new(Queue::default());
    let id = hub.add(Arc::clone(actor), root, recursive, Arc::clone(&queue))?;
    // From here on a failure drops the watch, and that takes back what was begun.
    let watch = Watch::new(Arc::clone(hub), id, queue);
    tree::watch(hub, id, PathBuf::new(), tree::Found::Silently)?;
    Ok(watch)
}
