//! The recipes under images/, parsed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// images/guest.json: what all images boot with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Debian release the kernel comes from.
    pub suite: String,
    /// Metapackage that depends on the newest kernel.
    pub kernel_package: String,
    /// Kernel modules in load order.
    pub modules: Vec<String>,
}

impl Guest {
    /// Reads the recipe.
    ///
    /// # Errors
    /// The recipe cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }
}

/// images/{name}/recipe.json: one root file system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Debian release.
    pub suite: String,
    /// Packages besides the smallest bootable set.
    pub packages: Vec<String>,
    /// Login name of uid 1000, with sudo without a password.
    pub default_user: String,
    pub default_workdir: String,
    /// Apparent size of the disk.
    pub size_mib: u64,
    /// File system UUID and directory hash seed.
    pub uuid: String,
    /// Unix seconds: no file in the image is younger.
    pub epoch: u64,
}

impl Image {
    /// Reads the recipe and a key over everything that decides what the package tree holds.
    ///
    /// # Errors
    /// The recipe cannot be read or parsed.
    pub fn read(directory: &Path) -> Result<(Self, String)> {
        let path = directory.join("recipe.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let recipe: Self = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        ensure!(recipe.packages.iter().all(|name| plain(name)), "{}: odd package name", path.display());
        ensure!(plain(&recipe.default_user) && plain(&recipe.suite), "{}: odd user or suite", path.display());
        let mut hash = Sha256::new();
        hash.update(&text);
        for file in files_below(&directory.join("files"))? {
            hash.update(file.to_string_lossy().as_bytes());
            hash.update(fs::read(directory.join("files").join(&file))?);
        }
        Ok((recipe, hex::encode(&hash.finalize()[..8])))
    }
}

/// Regular files below `directory`, relative to it, sorted.
///
/// # Errors
/// A directory cannot be read.
pub fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(&place).with_context(|| format!("read {}", place.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(directory)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
