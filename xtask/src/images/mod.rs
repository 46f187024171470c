//! `cargo xtask images`: guest kernel, initramfs and root file systems, from the recipes under images/.
//!
//! Same inputs, same bytes: order, times, owners, UUIDs and hash seeds are all fixed.

pub mod binaries;
mod cpio;
mod debian;
mod kernel;
mod recipe;
mod rootfs;
mod tool;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

/// Options of `cargo xtask images`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory that gets `kernels/` and `images/`.
    #[arg(long, default_value = "builds/guest")]
    pub out: PathBuf,
    /// Download packages again instead of using the cached tree.
    #[arg(long)]
    pub fresh: bool,
    /// Use the guest binaries that are there already (what the root part is called with).
    #[arg(long, hide = true)]
    pub no_build: bool,
}

/// Makes everything that is not there or has changed.
///
/// # Errors
/// A tool is missing or fails.
pub fn run(options: &Options) -> Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?;
    let began = Instant::now();
    tool::require(&[
        ("mmdebstrap", "mmdebstrap"),
        ("mkfs.ext4", "e2fsprogs"),
        ("debugfs", "e2fsprogs"),
        ("dpkg-deb", "dpkg"),
    ])?;
    let binaries = if options.no_build { binaries::built(repository)? } else { binaries::build(repository)? };
    if !tool::is_root()? {
        say("the root file system needs root: asking sudo");
        return tool::run_again_with_sudo(options);
    }
    let out = repository.join(&options.out);
    let cache = out.join("cache");
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let guest = recipe::Guest::read(&repository.join("images/guest.json"))?;
    let mirror = debian::Mirror::find()?;
    kernel::make(&guest, &mirror, &binaries, &cache, &out.join("kernels"), options.fresh)?;
    rootfs::make(
        "minimal",
        &repository.join("images"),
        &mirror,
        &binaries,
        &cache,
        &out.join("images"),
        options.fresh,
    )?;
    say(&format!("guest is ready in {} ({:.0} s)", out.display(), began.elapsed().as_secs_f32()));
    Ok(())
}

/// One line of progress.
fn say(text: &str) {
    eprintln!("images: {text}");
}
