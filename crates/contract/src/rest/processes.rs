//! `/v1/capsules/{id}/processes`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Signals that `DELETE /v1/capsules/{id}/processes/{selector}` sends.
pub const SIGNALS: [&str; 8] = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCONT"];

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

/// Text frames of a client of `GET /v1/capsules/{id}/pty` (WebSocket). `start` or `connect` comes first, within 10 s. Binary frames are
/// keystrokes, byte for byte; they may be sent before `started` has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PtyClientFrame {
    /// Start a terminal session. It outlives the socket.
    Start {
        /// The user's login shell when absent. Without args it is a line for that shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cmd: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// 80 when absent or 0.
        #[serde(default)]
        cols: u32,
        /// 24 when absent or 0.
        #[serde(default)]
        rows: u32,
        /// TERM is xterm-256color when not set here.
        #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        envs: std::collections::BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        #[serde(default)]
        encoding: PtyEncoding,
    },
    /// Go back to a session: recent output, then live.
    Connect {
        tag: String,
        #[serde(default)]
        encoding: PtyEncoding,
    },
    /// Keystrokes of clients that send no binary frames, in base64.
    Input { data: String },
    /// A side of 0 is ignored.
    Resize { cols: u32, rows: u32 },
    /// Kill the session and everything in it.
    Kill,
    /// Answer to a ping. None is needed.
    Pong,
}

/// How the output of a terminal is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PtyEncoding {
    /// Binary frames, byte for byte.
    #[default]
    Binary,
    /// Text frames of type `output`, the data in base64.
    Base64,
}

/// Text frames the server sends on `pty`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PtyServerFrame {
    /// The tag leads back to this session.
    Started { tag: String, pid: u32 },
    /// With encoding base64 only.
    Output { data: String },
    /// The session is over; the last frame.
    Exit { exit_code: i32 },
    /// After a fatal one the socket closes.
    Error { data: String, fatal: bool },
    /// Every 30 s.
    Ping,
}
