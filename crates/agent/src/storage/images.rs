//! Images: published by an operator, imported into the store by version, never changed there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use wrenn_domain::names::TemplateName;
use wrenn_linux::files;

use super::store::{StorageError, Store};

/// Bytes of an image.json.
const DESCRIPTION_BYTES_MAX: u64 = 1024 * 1024;
const ROOTFS: &str = "rootfs.ext4";

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    /// SHA-256 of the root file system, hex.
    pub version: String,
    pub rootfs: PathBuf,
    /// Apparent size: the smallest disk a sandbox of it can have.
    pub bytes: u64,
    pub default_user: String,
    pub default_workdir: String,
}

/// `image.json`, as far as the agent needs it.
#[derive(Debug, Deserialize)]
struct Description {
    name: String,
    version: String,
    size_bytes: u64,
    #[serde(default)]
    default_user: String,
    #[serde(default)]
    default_workdir: String,
}

/// All images of this host.
pub struct Images {
    store: Store,
    known: Mutex<BTreeMap<String, Arc<Image>>>,
}

impl Images {
    /// Imports what is published.
    pub fn open(store: Store) -> Self {
        let images = Self { store, known: Mutex::default() };
        images.import_all();
        images
    }

    /// Names, sorted.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.lock().values().cloned().collect()
    }

    /// The newest version of an image; looks again at what is published when it is not known.
    pub fn get(&self, name: &str) -> Result<Arc<Image>, StorageError> {
        if let Some(image) = self.lock().get(name) {
            return Ok(Arc::clone(image));
        }
        self.import_all();
        self.lock().get(name).cloned().ok_or_else(|| StorageError::NoImage(name.to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Image>>> {
        self.known.lock().expect("no holder of this lock can panic")
    }

    /// One bad image must not hide the others: it is named in the log and left out.
    fn import_all(&self) {
        let published = self.store.published().join("images");
        for entry in std::fs::read_dir(&published).into_iter().flatten().flatten() {
            let dir = entry.path();
            if !dir.join("image.json").is_file() {
                continue;
            }
            match self.import(&dir) {
                Ok(image) => {
                    self.lock().insert(image.name.clone(), Arc::new(image));
                }
                Err(error) => {
                    tracing::error!(image = %dir.display(), error = &error as &dyn std::error::Error, "an image cannot be used");
                }
            }
        }
    }

    fn import(&self, dir: &Path) -> Result<Image, StorageError> {
        let odd = |path: &Path, why: &str| StorageError::File {
            act: "use",
            path: path.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned()),
        };
        let described = dir.join("image.json");
        let io = |source| StorageError::File { act: "read", path: described.clone(), source };
        if described.metadata().map_err(io)?.len() > DESCRIPTION_BYTES_MAX {
            return Err(odd(&described, "too long for a description"));
        }
        let bytes = std::fs::read(&described).map_err(io)?;
        let description: Description = serde_json::from_slice(&bytes).map_err(|e| odd(&described, &e.to_string()))?;
        let version_is_sound =
            description.version.len() == 64 && description.version.bytes().all(|b| b.is_ascii_hexdigit());
        if description.name.parse::<TemplateName>().is_err() || !version_is_sound {
            return Err(odd(&described, "name or version is malformed"));
        }
        let source = dir.join(ROOTFS);
        let actual =
            source.metadata().map_err(|e| StorageError::File { act: "read", path: source.clone(), source: e })?.len();
        if actual != description.size_bytes {
            return Err(odd(&source, "its size is not the one in image.json; publish it again"));
        }
        let rootfs = self.import_file(&source, &description)?;
        Ok(Image {
            name: description.name,
            version: description.version,
            rootfs,
            bytes: description.size_bytes,
            default_user: description.default_user,
            default_workdir: description.default_workdir,
        })
    }

    /// Copies the file unless this version is in the store; under another name until it is whole.
    fn import_file(&self, source: &Path, description: &Description) -> Result<PathBuf, StorageError> {
        let dir = self.store.root().join("images").join(&description.name).join(&description.version);
        let target = dir.join(ROOTFS);
        if target.exists() {
            return Ok(target);
        }
        let io = |act, path: &Path| {
            let path = path.to_owned();
            move |source| StorageError::File { act, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        let fresh = dir.join("importing");
        let _ = std::fs::remove_file(&fresh);
        tracing::info!(image = %description.name, "importing image {}", description.name);
        if files::reflink(source, &fresh).is_err() {
            files::copy_sparse(source, &fresh).map_err(io("import", source))?;
        }
        std::fs::rename(&fresh, &target).and_then(|()| files::sync_directory(&dir)).map_err(io("import", source))?;
        Ok(target)
    }
}
