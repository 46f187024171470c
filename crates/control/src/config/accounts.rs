//! The part of the configuration that concerns people: public addresses, proxies, mail, logins by other sites.

use std::path::PathBuf;

use ipnet::IpNet;
use wrenn_domain::account::Email;

use super::{ConfigError, Reader, refuse};

/// Settings around accounts.
#[derive(Clone)]
pub struct Accounts {
    /// CP_PUBLIC_URL: how browsers reach this server; none: by the address in their request.
    pub public_url: Option<String>,
    /// OAUTH_REDIRECT_URL: the frontend that links in mails and the ends of OAuth lead to; `public_url` when absent.
    pub frontend_url: String,
    /// WRENN_TRUSTED_PROXIES: whose word about a client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// JWT_SECRET: what other secrets are derived from; made once and kept in the database when absent.
    pub secret: Option<String>,
    /// SMTP_*: how mail leaves; none: it goes to files.
    pub smtp: Option<Smtp>,
    /// SMTP_FROM_EMAIL
    pub mail_from: Email,
    /// WRENN_MAIL_DIR: where mails go without SMTP; `mail` in WRENN_DIR when absent.
    pub mail_dir: PathBuf,
    /// OAUTH_GITHUB_*
    pub github: Option<GithubApp>,
}

/// A mail server.
#[derive(Clone)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    /// Name and password.
    pub login: Option<(String, String)>,
    pub tls: SmtpTls,
}

/// How the connection to a mail server is made safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte (port 465).
    Implicit,
    /// STARTTLS, or no mail.
    Required,
    /// STARTTLS when offered. Only without a password.
    Offered,
    /// Never: for a server on this machine.
    Off,
}

/// An OAuth app registered at GitHub, or at an installation of GitHub's own server.
#[derive(Clone)]
pub struct GithubApp {
    pub client_id: String,
    pub client_secret: String,
    /// https://github.com
    pub base_url: String,
    /// https://api.github.com
    pub api_url: String,
}

impl Accounts {
    pub(super) fn parse(read: &Reader<'_>) -> Result<Self, ConfigError> {
        let public_url = base_url(read, "CP_PUBLIC_URL")?;
        let frontend_url = match base_url(read, "OAUTH_REDIRECT_URL")? {
            Some(url) => url,
            None => public_url.clone().unwrap_or_else(|| "http://localhost:8000".to_owned()),
        };
        let github = github(read)?;
        if github.is_some() && public_url.is_none() {
            return Err(refuse("CP_PUBLIC_URL", "is not set, but OAUTH_GITHUB_CLIENT_ID is".to_owned(), URL));
        }
        let dir = read.text("WRENN_DIR").unwrap_or("/var/lib/wrenn");
        Ok(Self {
            public_url,
            frontend_url,
            trusted_proxies: proxies(read)?,
            secret: secret(read)?,
            smtp: smtp(read)?,
            mail_from: read.text("SMTP_FROM_EMAIL").unwrap_or("noreply@wrenn.dev").parse().map_err(|_| {
                refuse("SMTP_FROM_EMAIL", "is no address".to_owned(), "an address such as a@example.com")
            })?,
            mail_dir: read.text("WRENN_MAIL_DIR").map_or_else(|| PathBuf::from(dir).join("mail"), PathBuf::from),
            github,
        })
    }
}

const URL: &str = "a URL such as https://wrenn.example.com, without path or query";

fn base_url(read: &Reader<'_>, variable: &'static str) -> Result<Option<String>, ConfigError> {
    let Some(text) = read.text(variable) else { return Ok(None) };
    let url = text.trim_end_matches('/');
    let good = url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path() == "/"
            && uri.query().is_none()
            && !uri.authority().is_some_and(|a| a.as_str().contains('@'))
    });
    if good { Ok(Some(url.to_owned())) } else { Err(refuse(variable, format!("is {text:?}"), URL)) }
}

fn proxies(read: &Reader<'_>) -> Result<Vec<IpNet>, ConfigError> {
    let variable = "WRENN_TRUSTED_PROXIES";
    let one = |text: &str| {
        let text = text.trim();
        text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
            refuse(
                variable,
                format!("holds {text:?}"),
                "addresses and networks such as 10.0.0.0/8,::1, comma-separated",
            )
        })
    };
    read.text(variable).map_or(Ok(Vec::new()), |text| text.split(',').map(one).collect())
}

fn secret(read: &Reader<'_>) -> Result<Option<String>, ConfigError> {
    match read.text("JWT_SECRET") {
        Some(text) if text.len() < 32 => {
            Err(refuse("JWT_SECRET", "is too short".to_owned(), "at least 32 characters, best random"))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

fn smtp(read: &Reader<'_>) -> Result<Option<Smtp>, ConfigError> {
    let port = read.number("SMTP_PORT", 587, 1, 65535, "a port, 1 to 65535")? as u16;
    let login = match (read.text("SMTP_USERNAME"), read.text("SMTP_PASSWORD")) {
        (Some(name), Some(password)) => Some((name.to_owned(), password.to_owned())),
        _ => None,
    };
    let tls = match read.text("SMTP_TLS").unwrap_or("auto") {
        "auto" if port == 465 => SmtpTls::Implicit,
        // A password never crosses the network in the clear.
        "auto" if login.is_some() => SmtpTls::Required,
        "auto" => SmtpTls::Offered,
        "implicit" => SmtpTls::Implicit,
        "starttls" => SmtpTls::Required,
        "none" => SmtpTls::Off,
        other => return Err(refuse("SMTP_TLS", format!("is {other:?}"), "auto, implicit, starttls or none")),
    };
    Ok(read.text("SMTP_HOST").map(|host| Smtp { host: host.to_owned(), port, login, tls }))
}

fn github(read: &Reader<'_>) -> Result<Option<GithubApp>, ConfigError> {
    let base = base_url(read, "OAUTH_GITHUB_BASE_URL")?.unwrap_or_else(|| "https://github.com".to_owned());
    let api = base_url(read, "OAUTH_GITHUB_API_URL")?.unwrap_or_else(|| "https://api.github.com".to_owned());
    match (read.text("OAUTH_GITHUB_CLIENT_ID"), read.text("OAUTH_GITHUB_CLIENT_SECRET")) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) => Ok(Some(GithubApp {
            client_id: id.to_owned(),
            client_secret: secret.to_owned(),
            base_url: base,
            api_url: api,
        })),
        (given, _) => {
            let variable = if given.is_some() { "OAUTH_GITHUB_CLIENT_ID" } else { "OAUTH_GITHUB_CLIENT_SECRET" };
            Err(refuse(variable, "is set without its other half".to_owned(), "both OAUTH_GITHUB_CLIENT_ID and _SECRET"))
        }
    }
}
