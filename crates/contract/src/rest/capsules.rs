//! `/v1/capsules`: create, list, get, delete, ping, pause, resume, fork, exec.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ErrorCode, ErrorCodeSchema};

/// Body of `POST /v1/capsules`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCapsule {
    /// Template name; "minimal" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// MiB; 512 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<i64>,
    /// MiB the guest sees; 5120 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size_mb: Option<i64>,
    /// Seconds without activity until the capsule is paused. 0 or less: never. 1 to 59 count as 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
    /// At most 20 labels; keys `[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}`, values at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Traffic to a port of the paused capsule resumes it, and waits meanwhile. False when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Anybody who knows the capsule's id may reach its ports. True when absent; when false, requests to its ports need an
    /// X-API-Key of its team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ports: Option<bool>,
}

/// A capsule as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Capsule {
    /// `cl-` and 25 characters.
    pub id: String,
    pub status: CapsuleStatus,
    pub template: String,
    pub vcpus: u32,
    /// MiB.
    pub memory_mb: u32,
    /// Seconds; 0 = never.
    pub timeout_sec: u32,
    /// MiB.
    pub disk_size_mb: u32,
    /// MiB of the disk that are in use on the host; only when one running or paused capsule is looked at, and its host says so at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_mb: Option<u32>,
    /// Traffic to its ports resumes it when it is paused.
    #[serde(default)]
    pub auto_resume: bool,
    /// Ports are open to anybody who knows the capsule's id.
    #[serde(default = "yes")]
    pub public_ports: bool,
    pub created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<DateTime<Utc>>,
    pub last_updated: DateTime<Utc>,
    /// The caller's labels and, once running, kernel_version, vmm_version, agent_version, envd_version; after a resume of a
    /// crashed capsule also resumed_from=disk.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Why the status is `error`, or why the last pause, resume or snapshot did not work, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Default of `public_ports` for answers of servers that know no such choice.
fn yes() -> bool {
    true
}

/// Body of `POST /v1/capsules/{id}/resume`; may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeCapsule {
    /// New time-out, as at its creation; unchanged when absent. Taken only if this call resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
}

/// Body of `POST /v1/capsules/{id}/fork`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkCapsule {
    /// Children to make, 1 to 100; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// Result for one child of a fork: the capsule or the error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForkResult {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<Capsule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ForkError>,
}

/// Why one child of a fork was not made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForkError {
    #[schema(value_type = ErrorCodeSchema)]
    pub code: ErrorCode,
    /// Text for the user that says what to do.
    pub message: String,
}

/// States a client can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapsuleStatus {
    Pending,
    Starting,
    Running,
    Pausing,
    Paused,
    Snapshotting,
    Resuming,
    Stopping,
    Hibernated,
    Stopped,
    Missing,
    Error,
}

/// Body of `POST /v1/capsules/{id}/exec`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Program, or with no args a line for the shell.
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Seconds, foreground only; 30 when absent. The process group is killed when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
    /// Answer at once with the pid; the process goes on.
    #[serde(default)]
    pub background: bool,
    /// Name to find a background process by; "proc-" and 8 hex characters when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// The user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Guest user; the capsule's default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Standard input, at most 1 MiB; base64 when `stdin_encoding` says so. Closed after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_encoding: Option<Encoding>,
}

/// Answer of a foreground exec whose command printed too much (413) or took too long (504) and was killed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecKilled {
    pub error: super::error::ErrorDetail,
    /// Output the command had printed until then.
    pub output: ExecOutput,
}

/// Output of a command.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecOutput {
    pub stdout: String,
    pub stderr: String,
    /// Encoding of both streams: base64 when either is not UTF-8.
    pub encoding: Encoding,
}

/// Answer of a foreground exec (200).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    pub sandbox_id: String,
    pub cmd: String,
    pub stdout: String,
    pub stderr: String,
    /// 128 plus the signal's number when a signal ended the process.
    pub exit_code: i32,
    pub duration_ms: u64,
    /// Encoding of both streams: base64 when either is not UTF-8.
    pub encoding: Encoding,
}

/// How bytes stand in a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// Answer of a background exec (202).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecStarted {
    pub sandbox_id: String,
    pub cmd: String,
    pub pid: u32,
    pub tag: String,
}
