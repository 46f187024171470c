//! Images: published by an operator, imported into the store by version, never changed there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use wrenn_domain::names::TemplateName;
use wrenn_linux::files;

use super::error::StorageError;
use super::store::Store;
use crate::mutex::lock;

/// Bytes of an image.json at most.
const DESCRIPTION_BYTES_MAX: u64 = 1024 * 1024;
const ROOTFS: &str = "rootfs.ext4";

/// Image is an imported image in the store.
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

/// Description is `image.json`, as far as the agent needs it.
#[derive(Debug, Deserialize)]
pub struct Description {
    name: String,
    version: String,
    size_bytes: u64,
    #[serde(default)]
    default_user: String,
    #[serde(default)]
    default_workdir: String,
}

impl Description {
    /// Parses the bytes of an `image.json`, whose name and version become parts of paths.
    ///
    /// # Errors
    /// The bytes are no description, or name and version are none an image can have; with the reason.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let description: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let version_is_sound =
            description.version.len() == 64 && description.version.bytes().all(|b| b.is_ascii_hexdigit());
        if description.name.parse::<TemplateName>().is_err() || !version_is_sound {
            return Err("name or version is malformed".to_owned());
        }
        Ok(description)
    }

    /// Directory of this version below the directory of all images.
    pub fn relative_dir(&self) -> PathBuf {
        Path::new(&self.name).join(&self.version)
    }
}

/// Images are all images of this host.
pub struct Images {
    store: Store,
    known: Mutex<BTreeMap<String, Arc<Image>>>,
}

impl Images {
    /// Imports what is published. Blocks, for the time of a copy.
    pub fn open(store: Store) -> Self {
        let images = Self { store, known: Mutex::default() };
        images.import_all();
        images
    }

    /// All images, sorted by name.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.lock().values().cloned().collect()
    }

    /// Newest version of an image; what is published is read again when it is not known. Blocks.
    ///
    /// # Errors
    /// There is no such image.
    pub fn get(&self, name: &str) -> Result<Arc<Image>, StorageError> {
        if let Some(image) = self.lock().get(name) {
            return Ok(Arc::clone(image));
        }
        self.import_all();
        self.lock().get(name).cloned().ok_or_else(|| StorageError::NoImage(name.to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Image>>> {
        lock(&self.known)
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
        let description = Description::parse(&bytes).map_err(|why| odd(&described, &why))?;
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
        let dir = self.store.root().join("images").join(description.relative_dir());
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
        // What was copied, not what is published: that may change meanwhile.
        if sha256(&fresh).map_err(io("read", &fresh))? != description.version.to_ascii_lowercase() {
            let _ = std::fs::remove_file(&fresh);
            let why = "its SHA-256 is not the version in image.json; publish it again, from a source you trust";
            return Err(io("use", source)(std::io::Error::new(std::io::ErrorKind::InvalidData, why)));
        }
        std::fs::rename(&fresh, &target).and_then(|()| files::sync_directory(&dir)).map_err(io("import", source))?;
        Ok(target)
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    const CHUNK: usize = 1 << 20;
    let (mut file, mut hash, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disks::ReflinkDisks;
    use super::*;

    #[test]
    fn an_image_whose_content_is_not_what_its_name_says_is_not_imported() {
        let home = tempfile::tempdir().unwrap();
        let published = home.path().join("images/minimal");
        std::fs::create_dir_all(&published).unwrap();
        let publish = |content: &[u8]| {
            let version = hex::encode(Sha256::digest(b"the root file system"));
            let described = serde_json::json!({"name": "minimal", "version": version, "size_bytes": content.len()});
            std::fs::write(published.join("image.json"), described.to_string()).unwrap();
            std::fs::write(published.join(ROOTFS), content).unwrap();
        };
        publish(b"the root file systen");
        let images =
            Images::open(Store::with_disks(home.path(), &home.path().join("store"), Arc::new(ReflinkDisks)).unwrap());
        assert!(matches!(images.get("minimal"), Err(StorageError::NoImage(_))));
        publish(b"the root file system");
        let image = images.get("minimal").unwrap();
        assert_eq!(std::fs::read(&image.rootfs).unwrap(), b"the root file system");
        let beside: Vec<_> = std::fs::read_dir(image.rootfs.parent().unwrap()).unwrap().collect();
        assert_eq!(beside.len(), 1, "nothing is left of the refused import");
    }
}
