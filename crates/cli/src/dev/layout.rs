//! Where a development instance keeps its things, and where its programs and guest images are found.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::{Uid, User};

/// Bytes of a directory under which sockets are made: a socket's whole path is limited to 107 bytes by the kernel.
const SOCKET_DIR_BYTES_MAX: usize = 80;

/// The directories of one instance.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `.dev`
    pub root: PathBuf,
    /// Written for users: base URL and API key.
    pub env: PathBuf,
    /// Secrets shared by the services.
    pub secrets: PathBuf,
    pub log: PathBuf,
    /// Mails that would have been sent.
    pub mail: PathBuf,
    /// Data of the agent.
    pub wrenn: PathBuf,
    pub redis: PathBuf,
    /// PostgreSQL's data; outside `root` when its user cannot reach that.
    pub postgres: PathBuf,
    /// Sockets and process ids.
    pub run: PathBuf,
    /// Kernel and images made by `make images`.
    pub guest: PathBuf,
}

impl Layout {
    /// Works the paths out; creates nothing.
    ///
    /// # Errors
    /// The working directory cannot be read.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(dir).with_context(|| format!("{} is no usable path", dir.display()))?;
        let outside = PathBuf::from("/var/lib/wrenn-dev").join(short_hash(&root));
        let inside_reachable = !Uid::effective().is_root() || others_may_enter(&root);
        let postgres = if inside_reachable { root.join("postgres") } else { outside.join("postgres") };
        let run = if inside_reachable && root.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
            root.join("run")
        } else {
            PathBuf::from("/run").join(format!("wrenn-dev-{}", short_hash(&root)))
        };
        Ok(Self {
            env: root.join("env"),
            secrets: root.join("secrets"),
            log: root.join("log"),
            mail: root.join("mail"),
            wrenn: root.join("wrenn"),
            redis: root.join("redis"),
            postgres,
            run,
            guest: guest_dir()?,
            root,
        })
    }

    /// Makes the directories that belong to whoever runs this.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn create(&self) -> anyhow::Result<()> {
        for dir in [&self.root, &self.log, &self.wrenn, &self.redis, &self.run] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(())
    }

    /// Parts that `make images` makes, each with whether it is there.
    pub fn guest_parts(&self) -> Vec<(&'static str, bool)> {
        let kernel = std::fs::read_dir(self.guest.join("kernels")).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("vmlinux")))
        });
        let image = self.guest.join("images/minimal");
        let image = image.join("rootfs.ext4").is_file() && image.join("image.json").is_file();
        vec![("guest kernel", kernel), ("minimal image", image)]
    }
}

/// One of our programs: beside this one, else in PATH.
///
/// # Errors
/// The program is nowhere.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().context("cannot tell where wrenn itself is")?.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    in_path(name).with_context(|| format!("{name} is neither beside wrenn nor in PATH; run `make build`"))
}

/// A program of the system in PATH or the usual places.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The account PostgreSQL runs under when we are root, which it refuses to be.
///
/// # Errors
/// There is no such account.
pub fn postgres_user() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    match User::from_name("postgres").context("cannot read the user database")? {
        Some(user) => Ok(Some(user)),
        None => bail!("no user `postgres`: install the Debian package postgresql (`make setup`)"),
    }
}

fn guest_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WRENN_GUEST_DIR") {
        return Ok(PathBuf::from(dir));
    }
    Ok(std::env::current_exe().context("cannot tell where wrenn itself is")?.with_file_name("guest"))
}

/// Whether an unprivileged user can get to `dir`, judged by its nearest existing ancestors.
fn others_may_enter(dir: &Path) -> bool {
    dir.ancestors().filter_map(|d| d.metadata().ok()).all(|meta| meta.mode() & 0o001 != 0)
}

/// Names one instance in places shared by all. FNV-1a: the same for every build, unlike the standard library's hasher.
fn short_hash(root: &Path) -> String {
    let hash = root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}
