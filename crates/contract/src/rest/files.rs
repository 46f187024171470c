//! `/v1/capsules/{id}/files/*`. Relative paths are below the default user's home.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `files/read`, `files/stream/read`, `files/mkdir`, `files/remove`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePath {
    pub path: String,
}

/// Body of `files/list`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFiles {
    pub path: String,
    /// Levels below path; 1 when absent, at most 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<i64>,
}

/// Answer of `files/list`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    pub entries: Vec<FileEntry>,
}

/// Answer of `files/mkdir`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeDir {
    pub entry: FileEntry,
}

/// One file system entry.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    pub name: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// As `ls -l` prints it.
    pub permissions: String,
    pub owner: String,
    pub group: String,
    /// Unix seconds.
    pub modified_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// Kind of a [`FileEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
}
