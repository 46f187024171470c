//! Reading one variable at a time: every value is parsed, and one that cannot be understood is an error that names it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tracing_subscriber::filter::LevelFilter;
use wrenn_domain::base_url::{BaseUrl, Scheme};
use wrenn_domain::settings;

/// Every variable this program reads. `.env.example` explains each.
pub const SETTINGS: &[&str] = &[
    "CP_HOST_AGENT_ADDR",
    "CP_PUBLIC_URL",
    "DATABASE_URL",
    "JWT_SECRET",
    "LOG_LEVEL",
    "OAUTH_GITHUB_API_URL",
    "OAUTH_GITHUB_BASE_URL",
    "OAUTH_GITHUB_CLIENT_ID",
    "OAUTH_GITHUB_CLIENT_SECRET",
    "OAUTH_REDIRECT_URL",
    "REDIS_URL",
    "SMTP_FROM_EMAIL",
    "SMTP_HOST",
    "SMTP_PASSWORD",
    "SMTP_PORT",
    "SMTP_TLS",
    "SMTP_USERNAME",
    "WRENN_CA_CERT",
    "WRENN_CA_KEY",
    "WRENN_CHANNELS_ALLOW_PRIVATE",
    "WRENN_CP_CONNECTIONS",
    "WRENN_CP_DB_CONNECTIONS",
    "WRENN_CP_DB_WAIT_MS",
    "WRENN_CP_LISTEN_ADDR",
    "WRENN_DIR",
    "WRENN_DISK_OVERCOMMIT",
    "WRENN_ENCRYPTION_KEY",
    "WRENN_ENV_FILE",
    "WRENN_HOST_TOKEN",
    "WRENN_LOG_FORMAT",
    "WRENN_MAIL_DIR",
    "WRENN_PORTS_SAME_SITE",
    "WRENN_PROXY_DOMAIN",
    "WRENN_REDIS_PREFIX",
    "WRENN_SIGNUP",
    "WRENN_TRUSTED_PROXIES",
];

/// A setting that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// One variable.
    #[error("{variable} {problem}; it takes {expected}")]
    Value { variable: &'static str, problem: String, expected: &'static str },
    /// A variable with our prefix that no program reads: most likely a misspelt one, whose value would silently count for nothing.
    #[error("{variable} {}", settings::refusal_of_unknown(.variable))]
    Unknown { variable: String },
    /// The settings' file is not its owner's alone.
    #[error(
        "{path} is not read: it must belong to root or to who runs this, and nobody else may write to it (chmod go-w)"
    )]
    FileOwner { path: PathBuf },
    /// The settings' file.
    #[error("{path} cannot be read")]
    File {
        path: PathBuf,
        #[source]
        source: dotenvy::Error,
    },
}

/// Variables, read by name and parsed.
pub(crate) struct Reader<'a>(pub(super) &'a BTreeMap<String, String>);

impl Reader<'_> {
    pub(crate) fn text(&self, variable: &str) -> Option<&str> {
        debug_assert!(SETTINGS.contains(&variable), "{variable} is missing in SETTINGS");
        self.0.get(variable).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    pub(super) fn url(
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

    pub(super) fn listen(&self, variable: &'static str, default: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(variable).unwrap_or(default);
        let full =
            if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replacen("localhost", "127.0.0.1", 1) };
        full.parse().map_err(|_| {
            refuse(variable, format!("is {text:?}"), "an address and port such as :8000 or 127.0.0.1:8000")
        })
    }

    pub(super) fn host_agent(&self, variable: &'static str, has_ca: bool) -> Result<String, ConfigError> {
        let expected = "the base URL of the host agent, such as http://localhost:50051; https only with WRENN_CA_CERT";
        let text = self.text(variable).unwrap_or("http://localhost:50051");
        match text.parse::<BaseUrl>() {
            Ok(url) if url.path().is_empty() && (has_ca || url.scheme() == Scheme::Http) => Ok(url.to_string()),
            Ok(_) => Err(refuse(variable, format!("is {text:?}"), expected)),
            Err(why) => Err(refuse(variable, format!("is {text:?}: {why}"), expected)),
        }
    }

    pub(super) fn secret(&self, variable: &'static str, may_be_absent: bool) -> Result<Option<String>, ConfigError> {
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

    pub(super) fn level(&self, variable: &'static str) -> Result<LevelFilter, ConfigError> {
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

pub(super) fn is_loopback(url: &str) -> bool {
    let Ok(url) = url.parse::<BaseUrl>() else { return false };
    let host = url.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(crate) fn refuse(variable: &'static str, problem: String, expected: &'static str) -> ConfigError {
    ConfigError::Value { variable, problem, expected }
}
