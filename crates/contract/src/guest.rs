//! envd's plain HTTP surface on [`PORT`]. RPC services share the port: `/process.Process/*`, `/filesystem.Filesystem/*`.
//!
//! Every call carries [`TOKEN_HEADER`] once a token is set; the first `/init` sets it. Errors are JSON [`Error`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// TCP port envd listens on inside the guest.
pub const PORT: u16 = 49983;
/// UDP port on the guest's gateway to which envd sends [`READY_BEACON`] when it listens. A hint only: the agent
/// believes nothing but a successful `/init`.
pub const READY_PORT: u16 = 49984;
/// Payload of the ready datagram.
pub const READY_BEACON: &[u8] = b"envd ready\n";
/// Guest address, the same in every sandbox so that a restored VM needs no re-addressing.
pub const GUEST_ADDR: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 0, 21);
/// Gateway as the guest sees it: the tap device in the sandbox's network namespace.
pub const GATEWAY_ADDR: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 0, 22);
/// Prefix length of the guest link.
pub const LINK_PREFIX: u8 = 30;
/// MAC address of the guest's eth0.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 0x05];

/// MAC address of the gateway, the same everywhere: a restored guest remembers it.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 0x06];

/// The sandbox's access token.
pub const TOKEN_HEADER: &str = "x-access-token";
/// Guest user to act as, for `/files` and the RPC services (E2B clients send HTTP basic auth instead; both work).
pub const USER_HEADER: &str = "x-wrenn-user";

/// `GET`: 200 [`Health`] without a token.
pub const HEALTH: &str = "/health";
/// `GET`: 200 [`Metrics`].
pub const METRICS: &str = "/metrics";
/// `GET`: 200 [`Activity`].
pub const ACTIVITY: &str = "/activity";
/// `POST` [`Init`]: 200 [`InitDone`], 401 when the token differs from the one set.
pub const INIT: &str = "/init";
/// `POST`: 204 when file systems are synced and free blocks trimmed.
pub const SNAPSHOT_PREPARE: &str = "/snapshot/prepare";
/// `POST` with query [`FreezeQuery`]: 200 [`Frozen`] when every process but envd stands still, to be followed by the capture of the
/// VM. Only a `POST /init` lets them go on: see [`Init::release`]. 409 when a release of that number or a later one came first.
pub const SNAPSHOT_FREEZE: &str = "/snapshot/freeze";
/// `GET` (Range, gzip), `PUT` (raw body), `POST` (multipart part `file`) with query `path` and optional `username`.
pub const FILES: &str = "/files";

/// `GET` with query `port` and `Connection: Upgrade`, `Upgrade:` [`TUNNEL_PROTOCOL`]: 101, then raw bytes both ways to that
/// port of the guest's loopback (127.0.0.1, else ::1); 502 when nobody listens there.
pub const TUNNEL: &str = "/tunnel";
/// Name of the raw tunnel in an `Upgrade` header, here and at the agent.
pub const TUNNEL_PROTOCOL: &str = "wrenn-tcp";

/// Returns whether a path, as it is written in a request, is one of those that users' calls may reach. All others are the agent's own, or
/// none: a path that is written in another way is refused, so that nobody has to know in how many ways a path can be written.
pub fn is_open_to_users(path: &str) -> bool {
    const SERVICES: [&str; 2] = ["/filesystem.Filesystem/", "/process.Process/"];
    let is_method = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_call = SERVICES.iter().any(|service| path.strip_prefix(service).is_some_and(is_method));
    is_call || [HEALTH, METRICS, ACTIVITY, FILES].contains(&path)
}

/// Answer of `GET /health`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// envd's version.
    pub version: String,
}

/// Body of `POST /init`. Everything optional; what is absent stays as it is.
///
/// Sent once after a boot and once after every restore; the sandbox is handed out only after [`InitDone`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Init {
    /// Names this run of the VM: a new value per boot, restore or fork. A value envd has not seen makes it renew
    /// what must not be shared between copies (entropy, machine-id, hostname, clock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_id: Option<String>,
    /// New access token; from then on required on every call. A token already set must be presented in the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// The host's clock, Unix nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ns: Option<i64>,
    /// 32 to 512 bytes of host entropy in hex, credited to the kernel's pool. Never log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// User for processes and files that name none.
    #[serde(default, rename = "defaultUser", skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Working directory for processes that name none; the user's home when absent.
    #[serde(default, rename = "defaultWorkdir", skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// Merged into the default environment.
    #[serde(default, rename = "envVars", skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Public id, `cl-...`; also becomes WRENN_SANDBOX_ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Template name; also becomes WRENN_TEMPLATE_ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// Domain under which ports are reachable; also becomes WRENN_PROXY_DOMAIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_domain: Option<String>,
    /// Name servers for /etc/resolv.conf, at most 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<std::net::IpAddr>,
    /// Grow the root file system to the size of its block device.
    #[serde(default)]
    pub grow_root: bool,
    /// Ends every freeze with this number or a smaller one, and refuses those that arrive late. For a guest that goes on as the one it
    /// was; a new `lifecycle_id` ends every freeze by itself, once all else is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
}

/// Query of `POST /snapshot/freeze`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeQuery {
    /// Number of this freeze; grows with every freeze of a guest.
    pub number: u64,
}

/// Answer of `POST /snapshot/freeze`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Number of the freeze that holds.
    pub number: u64,
    /// Cgroups in which some process had not come to a stop in time: it is inside the kernel, and stops before it runs code of its own.
    pub late: Vec<String>,
}

/// Answer of envd to `POST /init`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InitDone {
    /// Echo of [`Init::lifecycle_id`].
    pub lifecycle_id: Option<String>,
    /// envd's version.
    pub version: String,
    /// Guest kernel release.
    pub kernel_version: String,
    /// Fresh entropy was credited and the generator reseeded.
    pub entropy_reseeded: bool,
    /// Guest clock minus the given timestamp at the moment it was applied, nanoseconds; absent when none was given.
    pub clock_offset_ns: Option<i64>,
    /// Bytes the root file system has after growing.
    pub root_bytes: u64,
}

/// Answer of `GET /metrics`. Bytes unless named otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metrics {
    /// Unix seconds.
    pub ts: i64,
    pub cpu_count: u32,
    /// 0 to 100 over all CPUs, since the previous call.
    pub cpu_used_pct: f32,
    pub mem_total: u64,
    pub mem_used: u64,
    pub mem_total_mib: u64,
    pub mem_used_mib: u64,
    pub disk_total: u64,
    pub disk_used: u64,
}

/// Answer of `GET /activity`, measured between this call and the previous one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Activity {
    pub cpu_count: u32,
    pub cpu_used_pct: f32,
    /// Bytes per second, received plus sent, all interfaces but lo.
    pub net_bps: u64,
    /// Bytes per second, read plus written.
    pub disk_bps: u64,
}

/// One file written by `PUT` or `POST /files`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Absolute path.
    pub path: String,
    pub name: String,
    /// Always "file".
    #[serde(rename = "type")]
    pub kind: String,
}

/// Error body of every plain HTTP route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error {
    /// HTTP status.
    pub code: u16,
    pub message: String,
}
