//! Configuration: the only reader of the environment and of `.env`. The real environment wins.
//!
//! A value that cannot be understood is an error that names the variable and what it takes; never a silent default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use accounts::{Accounts, GithubApp, Smtp, SmtpTls};
pub use channels::ChannelSettings;
use tracing_subscriber::filter::LevelFilter;
use wrenn_domain::limits::DATABASE_WAIT_MAX;

use crate::ca::Ca;

mod accounts;
mod authority;
mod channels;

/// A setting that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// One variable.
    #[error("{variable} {problem}; it takes {expected}")]
    Value { variable: &'static str, problem: String, expected: &'static str },
    /// The `.env` file.
    #[error("{path} cannot be read")]
    File {
        path: PathBuf,
        #[source]
        source: dotenvy::Error,
    },
}

/// All settings of a control plane.
#[derive(Clone)]
pub struct Config {
    /// DATABASE_URL
    pub database_url: String,
    /// WRENN_CP_DB_CONNECTIONS: most database connections of this process.
    pub database_connections: u32,
    /// WRENN_CP_DB_WAIT_MS: longest wait for the database before a request is refused.
    pub database_wait: Duration,
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
    /// Notification channels.
    pub channels: ChannelSettings,
    /// What people, their mails and their browsers see.
    pub accounts: Accounts,
}

impl Config {
    /// Reads `.env` in the working directory (if any) and the environment.
    pub fn load() -> Result<Self, ConfigError> {
        let mut values = env_file(Path::new(".env"))?;
        values.extend(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))));
        Self::parse(&values)
    }

    /// Reads settings from a map of variables.
    pub fn parse(values: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
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
            redis_url: read.url(
                "REDIS_URL",
                "redis://localhost:6379/0",
                &["redis://", "redis+unix://", "unix://"],
                "a URL that begins with redis:// or redis+unix://",
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

pub(crate) struct Reader<'a>(&'a BTreeMap<String, String>);

impl Reader<'_> {
    pub(crate) fn text(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    fn url(
        &self,
        variable: &'static str,
        default: &str,
        schemes: &[&str],
        expected: &'static str,
    ) -> Result<String, ConfigError> {
        let value = self.text(variable).unwrap_or(default);
        if schemes.iter().any(|scheme| value.starts_with(scheme) && value.len() > scheme.len()) {
            return Ok(value.to_owned());
        }
        Err(refuse(variable, "is not such a URL".to_owned(), expected))
    }

    pub(crate) fn number(
        &self,
        variable: &'static str,
        default: u64,
        min: u64,
        max: u64,
        expected: &'static str,
    ) -> Result<u64, ConfigError> {
        let Some(text) = self.text(variable) else { return Ok(default) };
        match text.parse() {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(refuse(variable, format!("is {text:?}"), expected)),
        }
    }

    fn listen(&self, variable: &'static str, default: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(variable).unwrap_or(default);
        let full =
            if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replacen("localhost", "127.0.0.1", 1) };
        full.parse().map_err(|_| {
            refuse(variable, format!("is {text:?}"), "an address and port such as :8000 or 127.0.0.1:8000")
        })
    }

    fn host_agent(&self, variable: &'static str, has_ca: bool) -> Result<String, ConfigError> {
        let expected = "the base URL of the host agent, such as http://localhost:50051; https only with WRENN_CA_CERT";
        let schemes: &[&str] = if has_ca { &["http://", "https://"] } else { &["http://"] };
        let url = self.url(variable, "http://localhost:50051", schemes, expected)?;
        let url = url.trim_end_matches('/');
        match url.parse::<http::Uri>() {
            Ok(uri) if uri.authority().is_some() && uri.path() == "/" && uri.query().is_none() => Ok(url.to_owned()),
            _ => Err(refuse(variable, format!("is {url:?}"), expected)),
        }
    }

    fn secret(&self, variable: &'static str, may_be_absent: bool) -> Result<Option<String>, ConfigError> {
        let expected = "the secret shared with the host agent: 16 to 512 printable ASCII characters without blanks";
        let Some(text) = self.text(variable) else {
            return match may_be_absent {
                true => Ok(None),
                false => {
                    Err(refuse(variable, "is not set, but the host agent is not on this machine".to_owned(), expected))
                }
            };
        };
        if (16..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Some(text.to_owned()));
        }
        Err(refuse(variable, "is not such a text".to_owned(), expected))
    }

    fn level(&self, variable: &'static str) -> Result<LevelFilter, ConfigError> {
        match self.text(variable).unwrap_or("info").to_ascii_lowercase().as_str() {
            "trace" => Ok(LevelFilter::TRACE),
            "debug" => Ok(LevelFilter::DEBUG),
            "info" => Ok(LevelFilter::INFO),
            "warn" => Ok(LevelFilter::WARN),
            "error" => Ok(LevelFilter::ERROR),
            other => Err(refuse(variable, format!("is {other:?}"), "trace, debug, info, warn or error")),
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(|h| h.trim_matches(['[', ']']).to_owned()));
    host.is_some_and(|host| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

pub(crate) fn refuse(variable: &'static str, problem: String, expected: &'static str) -> ConfigError {
    ConfigError::Value { variable, problem, expected }
}

fn env_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let wrap = |source| ConfigError::File { path: path.to_owned(), source };
    dotenvy::from_path_iter(path).map_err(wrap)?.collect::<Result<_, _>>().map_err(wrap)
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
            ("WRENN_CA_KEY", "-----BEGIN PRIVATE KEY-----"),
        ] {
            let values = [(variable.to_owned(), value.to_owned())];
            let all = [(TOKEN.0.to_owned(), TOKEN.1.to_owned())].into_iter().chain(values).collect();
            let error = Config::parse(&all).expect_err(variable).to_string();
            assert!(error.starts_with(variable) && error.contains("it takes"), "{error}");
        }
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
