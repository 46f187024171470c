//! Configuration: the only reader of the environment and of `.env`. The real environment wins.
//!
//! A value that cannot be understood is an error that names the variable and what it takes; never a silent default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use accounts::{Accounts, GithubApp, Signup, Smtp, SmtpTls};
pub use notification_channels::ChannelSettings;
use tracing_subscriber::filter::LevelFilter;
use wrenn_domain::limits::{CONNECTIONS_MAX, DATABASE_WAIT_MAX};
use wrenn_domain::settings;

use crate::ca::Ca;
pub use reader::{ConfigError, SETTINGS};
use reader::{Reader, is_loopback, refuse};

mod accounts;
mod authority;
mod notification_channels;
mod reader;

/// All settings of a control plane.
#[derive(Clone)]
pub struct Config {
    /// DATABASE_URL
    pub database_url: String,
    /// WRENN_CP_DB_CONNECTIONS: most database connections of this process.
    pub database_connections: u32,
    /// WRENN_CP_DB_WAIT_MS: longest wait for the database before a request is refused.
    pub database_wait: Duration,
    /// WRENN_CP_CONNECTIONS: most connections of clients at once.
    pub connections: usize,
    /// REDIS_URL
    pub redis_url: String,
    /// WRENN_REDIS_PREFIX: put before every key and channel.
    pub redis_prefix: String,
    /// WRENN_CP_LISTEN_ADDR
    pub listen: SocketAddr,
    /// CP_HOST_AGENT_ADDR: base URL of the one host's agent.
    pub host_agent: String,
    /// WRENN_HOST_TOKEN: shared with the agent; may be absent only while the agent is on this machine. Never logged.
    pub host_token: Option<String>,
    /// WRENN_DIR
    pub dir: PathBuf,
    /// LOG_LEVEL
    pub log_level: LevelFilter,
    /// WRENN_LOG_FORMAT: text or json.
    pub log_json: bool,
    /// WRENN_CA_CERT and WRENN_CA_KEY: who vouches for hosts, and for us to them; none: hosts are spoken to in plain http.
    pub ca: Option<Arc<Ca>>,
    /// WRENN_DISK_OVERCOMMIT: how often the disk of a host may be promised.
    pub disk_overcommit: u64,
    /// Notification channels.
    pub channels: ChannelSettings,
    /// Settings of what people, their mails and their browsers see.
    pub accounts: Accounts,
}

impl Config {
    /// Reads the file that WRENN_ENV_FILE names (if any) and the environment. No other file: the working directory may be anybody's.
    ///
    /// # Errors
    /// When the file cannot be read, others than its owner may write to it, its owner is neither root nor who runs this, a value cannot be understood, or a variable that begins with WRENN_ is no setting.
    pub fn load() -> Result<Self, ConfigError> {
        let mut values = match std::env::var_os("WRENN_ENV_FILE") {
            Some(path) => env_file(Path::new(&path))?,
            None => BTreeMap::new(),
        };
        values.extend(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))));
        Self::parse(&values)
    }

    /// Reads settings from a map of variables.
    ///
    /// # Errors
    /// When a value cannot be understood, or a variable that begins with WRENN_ is no setting.
    pub fn parse(values: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        if let Some(variable) = values.keys().find(|name| settings::is_unknown(name)) {
            return Err(ConfigError::Unknown { variable: variable.clone() });
        }
        let read = Reader(values);
        let ca = authority::parse(&read)?;
        let host_agent = read.host_agent("CP_HOST_AGENT_ADDR", ca.is_some())?;
        Ok(Self {
            database_url: read.url(
                "DATABASE_URL",
                "postgres://wrenn:wrenn@localhost:5432/wrenn",
                &["postgres://", "postgresql://"],
                "a URL that begins with postgres://",
            )?,
            database_connections: read.number("WRENN_CP_DB_CONNECTIONS", 16, 2, 500, "a number from 2 to 500")? as u32,
            database_wait: Duration::from_millis(read.number(
                "WRENN_CP_DB_WAIT_MS",
                DATABASE_WAIT_MAX.as_millis() as u64,
                100,
                60_000,
                "milliseconds from 100 to 60000",
            )?),
            connections: read.number(
                "WRENN_CP_CONNECTIONS",
                CONNECTIONS_MAX as u64,
                16,
                1_000_000,
                "a number from 16 to 1000000",
            )? as usize,
            redis_url: read.url(
                "REDIS_URL",
                "redis://localhost:6379/0",
                &["redis://", "rediss://", "redis+unix://", "unix://"],
                "a URL that begins with redis://, rediss:// (with TLS) or redis+unix://",
            )?,
            redis_prefix: read.text("WRENN_REDIS_PREFIX").unwrap_or("wrenn:").to_owned(),
            listen: read.listen("WRENN_CP_LISTEN_ADDR", ":8000")?,
            host_token: read.secret("WRENN_HOST_TOKEN", is_loopback(&host_agent))?,
            host_agent,
            dir: PathBuf::from(read.text("WRENN_DIR").unwrap_or("/var/lib/wrenn")),
            log_level: read.level("LOG_LEVEL")?,
            log_json: match read.text("WRENN_LOG_FORMAT") {
                None | Some("text") => false,
                Some("json") => true,
                Some(other) => return Err(refuse("WRENN_LOG_FORMAT", format!("is {other:?}"), "text or json")),
            },
            ca,
            disk_overcommit: read.number("WRENN_DISK_OVERCOMMIT", 10, 1, 1000, "a number from 1 to 1000")?,
            channels: ChannelSettings::parse(&read)?,
            accounts: Accounts::parse(&read)?,
        })
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URLs may carry passwords.
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("host_agent", &self.host_agent)
            .field("dir", &self.dir)
            .field("log_level", &self.log_level)
            .finish_non_exhaustive()
    }
}

fn env_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let wrap = |source| ConfigError::File { path: path.to_owned(), source };
    // Judged by the open file: the name may lead elsewhere a moment later.
    let file = std::fs::File::open(path).map_err(|error| wrap(dotenvy::Error::Io(error)))?;
    let facts = file.metadata().map_err(|error| wrap(dotenvy::Error::Io(error)))?;
    let own = rustix::process::geteuid().as_raw();
    if !(facts.uid() == 0 || facts.uid() == own) || facts.mode() & 0o022 != 0 {
        return Err(ConfigError::FileOwner { path: path.to_owned() });
    }
    dotenvy::from_read_iter(file).collect::<Result<_, _>>().map_err(wrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: (&str, &str) = ("WRENN_HOST_TOKEN", "0123456789abcdef");

    fn with(extra: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(&extra.iter().chain([&TOKEN]).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn without_settings_the_documented_defaults_hold() {
        let config = with(&[]).expect("defaults");
        assert_eq!(config.listen.to_string(), "0.0.0.0:8000");
        assert_eq!(config.host_agent, "http://localhost:50051");
        assert_eq!(config.dir, PathBuf::from("/var/lib/wrenn"));
    }

    #[test]
    fn a_bad_value_names_its_variable_and_what_it_takes() {
        for (variable, value) in [
            ("DATABASE_URL", "mysql://x"),
            ("REDIS_URL", "localhost"),
            ("WRENN_CP_LISTEN_ADDR", "8000"),
            ("CP_HOST_AGENT_ADDR", "localhost:50051"),
            ("CP_HOST_AGENT_ADDR", "http://host/path"),
            ("WRENN_HOST_TOKEN", "short"),
            ("LOG_LEVEL", "loud"),
            ("WRENN_LOG_FORMAT", "xml"),
            ("WRENN_CP_DB_CONNECTIONS", "1e9"),
            ("WRENN_CP_DB_WAIT_MS", "0"),
            ("WRENN_TRUSTED_PROXIES", "10.0.0.0/33"),
            ("CP_PUBLIC_URL", "wrenn.example.com"),
            ("OAUTH_REDIRECT_URL", "https://x.io/path?query"),
            ("SMTP_PORT", "70000"),
            ("SMTP_TLS", "maybe"),
            ("SMTP_FROM_EMAIL", "nobody"),
            ("OAUTH_GITHUB_CLIENT_ID", "half"),
            ("OAUTH_GITHUB_BASE_URL", "ftp://x"),
            ("JWT_SECRET", "short"),
            ("CP_HOST_AGENT_ADDR", "https://localhost:50051"),
            ("WRENN_CA_CERT", "-----BEGIN CERTIFICATE-----"),
            ("WRENN_CA_CERT", "/there/is/no/such/file"),
            ("WRENN_ENCRYPTION_KEY", "hunter2"),
            ("WRENN_ENCRYPTION_KEY", "zz00000000000000000000000000000000000000000000000000000000000000"),
            ("WRENN_CHANNELS_ALLOW_PRIVATE", "yes"),
            ("WRENN_SIGNUP", "invited"),
            ("WRENN_CP_CONNECTIONS", "1"),
            ("WRENN_DISK_OVERCOMMIT", "0"),
            ("WRENN_PROXY_DOMAIN", "a b"),
            ("WRENN_CA_KEY", "-----BEGIN PRIVATE KEY-----"),
        ] {
            let values = [(variable.to_owned(), value.to_owned())];
            let all = [(TOKEN.0.to_owned(), TOKEN.1.to_owned())].into_iter().chain(values).collect();
            let error = Config::parse(&all).expect_err(variable).to_string();
            assert!(error.starts_with(variable) && error.contains("it takes"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_its_name_and_those_of_other_programs_pass() {
        let error = with(&[("WRENN_CP_LISTEN_ADR", ":1")]).expect_err("unknown").to_string();
        assert!(error.contains("WRENN_CP_LISTEN_ADR") && error.contains("WRENN_CP_LISTEN_ADDR?"), "{error}");
        assert!(
            with(&[("WRENN_QEMU_BIN", "/q"), ("WRENN_API_KEY", "x"), ("WRENN_TEST_SKIP", "1"), ("PATH", "/")]).is_ok()
        );
        for name in SETTINGS.iter().filter(|name| name.starts_with("WRENN_")) {
            assert!(settings::KNOWN.contains(name), "{name} is unknown to other programs");
        }
    }

    #[test]
    fn ports_below_the_apis_own_registrable_domain_are_refused_unless_a_setting_says_so() {
        for (domain, good) in [
            ("ports.example.com", false),
            ("EXAMPLE.com:8000", false),
            ("api.example.com", false),
            ("example.net", true),
            ("ports.example.org:443", true),
        ] {
            let settings = [("CP_PUBLIC_URL", "https://api.example.com"), ("WRENN_PROXY_DOMAIN", domain)];
            assert_eq!(with(&settings).is_ok(), good, "{domain}");
            let allowed = [settings[0], settings[1], ("WRENN_PORTS_SAME_SITE", "allow")];
            assert!(with(&allowed).is_ok(), "{domain}");
        }
        assert!(with(&[("WRENN_PROXY_DOMAIN", "localhost:8000")]).is_ok(), "no public address");
    }

    #[test]
    fn a_file_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("env");
        std::fs::write(&path, "LOG_LEVEL=debug\nWRENN_DIR='/a b'\n").expect("written");
        for (mode, good) in [(0o600, true), (0o644, true), (0o660, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let read = env_file(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Ok(values) = read {
                assert_eq!((&*values["LOG_LEVEL"], &*values["WRENN_DIR"]), ("debug", "/a b"));
            }
        }
        assert!(env_file(&dir.path().join("none")).is_err(), "a named file is there");
    }

    #[test]
    fn the_host_token_may_be_absent_only_on_this_machine() {
        let with = |address: &str| {
            Config::parse(&[("CP_HOST_AGENT_ADDR".to_owned(), address.to_owned())].into_iter().collect())
        };
        for here in ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1/"] {
            assert!(with(here).is_ok_and(|config| config.host_token.is_none()), "{here}");
        }
        for away in ["http://10.0.0.1:1", "http://host:1"] {
            assert!(with(away).expect_err(away).to_string().starts_with("WRENN_HOST_TOKEN"), "{away}");
        }
    }

    #[test]
    fn its_debug_form_shows_no_secret() {
        let config =
            with(&[("DATABASE_URL", "postgres://u:hunter2@h/d"), ("SMTP_PASSWORD", "hunter2")]).expect("valid");
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2") && !text.contains(TOKEN.1), "{text}");
    }
}
