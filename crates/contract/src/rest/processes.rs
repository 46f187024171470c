//! `/v1/capsules/{id}/processes`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/capsules/{id}/processes`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    pub processes: Vec<Process>,
}

/// A running process.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Process {
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub cmd: String,
    #[serde(default)]
    pub args: Vec<String>,
}

/// First text frame of `GET /v1/capsules/{id}/exec/stream` (WebSocket), then any number of [`ExecInput`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecClientFrame {
    /// Must come first, within 10 s.
    Start {
        cmd: String,
        #[serde(default)]
        args: Vec<String>,
        #[serde(default)]
        envs: std::collections::BTreeMap<String, String>,
        #[serde(default)]
        cwd: Option<String>,
        #[serde(default)]
        user: Option<String>,
        /// Give the process a standard input fed by binary frames. Default: it reads end of file.
        #[serde(default)]
        stdin: bool,
        /// Ask for stdout and stderr as binary frames (first byte 1 = stdout, 2 = stderr, rest verbatim)
        /// instead of JSON text, so that no byte is lost.
        #[serde(default)]
        binary: bool,
    },
    /// No more input.
    StdinEof,
    /// Kill the process group.
    Stop,
}

/// Text frames the server sends on `exec/stream`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecServerFrame {
    Start { pid: u32 },
    Stdout { data: String },
    Stderr { data: String },
    Exit { exit_code: i32 },
    Error { data: String },
}
