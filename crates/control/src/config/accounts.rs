//! The part of the configuration that concerns people: public addresses, proxies, mail, logins by other sites.

use std::path::PathBuf;

use ipnet::IpNet;
use wrenn_domain::account::Email;
use wrenn_domain::base_url::BaseUrl;

use super::reader::{ConfigError, Reader, refuse};

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
    /// WRENN_PROXY_DOMAIN: the domain below which ports of capsules answer; none: below any.
    pub proxy_domain: Option<String>,
    /// WRENN_SIGNUP: whether strangers may make accounts.
    pub signup: Signup,
    /// OAUTH_GITHUB_*
    pub github: Option<GithubApp>,
}

/// Rule on who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signup {
    /// Nobody but who runs the server: `wrenn-cp admin create` and `wrenn-cp user ensure`.
    Closed,
    /// Anybody with a mailbox, or an account at a linked site.
    Open,
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
        let proxy_domain = proxy_domain(read, public_url.as_deref())?;
        let github = github(read)?;
        if github.is_some() && public_url.is_none() {
            return Err(refuse("CP_PUBLIC_URL", "is not set, but OAUTH_GITHUB_CLIENT_ID is".to_owned(), URL));
        }
        let dir = read.text("WRENN_DIR").unwrap_or("/var/lib/wrenn");
        Ok(Self {
            proxy_domain,
            public_url,
            frontend_url,
            trusted_proxies: proxies(read)?,
            secret: secret(read)?,
            smtp: smtp(read)?,
            mail_from: read.text("SMTP_FROM_EMAIL").unwrap_or("noreply@wrenn.dev").parse().map_err(|_| {
                refuse("SMTP_FROM_EMAIL", "is no address".to_owned(), "an address such as a@example.com")
            })?,
            mail_dir: read.text("WRENN_MAIL_DIR").map_or_else(|| PathBuf::from(dir).join("mail"), PathBuf::from),
            signup: match read.text("WRENN_SIGNUP") {
                None | Some("closed") => Signup::Closed,
                Some("open") => Signup::Open,
                Some(other) => return Err(refuse("WRENN_SIGNUP", format!("is {other:?}"), "closed or open")),
            },
            github,
        })
    }
}

const URL: &str = "a URL such as https://wrenn.example.com, without path or query";

fn base_url(read: &Reader<'_>, variable: &'static str) -> Result<Option<String>, ConfigError> {
    let Some(text) = read.text(variable) else { return Ok(None) };
    match text.parse::<BaseUrl>() {
        Ok(url) if url.path().is_empty() => Ok(Some(url.to_string())),
        Ok(_) => Err(refuse(variable, format!("is {text:?}: it has a path"), URL)),
        Err(why) => Err(refuse(variable, format!("is {text:?}: {why}"), URL)),
    }
}

/// The domain of ports. Pages of capsules are anybody's: below the API's own registrable domain browsers would take them for the
/// same site, and send along what other sites do not get.
fn proxy_domain(read: &Reader<'_>, public_url: Option<&str>) -> Result<Option<String>, ConfigError> {
    let variable = "WRENN_PROXY_DOMAIN";
    let same_site = match read.text("WRENN_PORTS_SAME_SITE") {
        None | Some("refuse") => false,
        Some("allow") => true,
        Some(other) => return Err(refuse("WRENN_PORTS_SAME_SITE", format!("is {other:?}"), "refuse or allow")),
    };
    let Some(text) = read.text(variable) else { return Ok(None) };
    let expected = "a domain with its port, if any, such as ports.example.net:8000";
    let domain: BaseUrl =
        format!("http://{text}").parse().map_err(|why| refuse(variable, format!("is {text:?}: {why}"), expected))?;
    let api = public_url.and_then(|url| url.parse::<BaseUrl>().ok());
    if !same_site && api.is_some_and(|api| site(api.host()) == site(domain.host())) {
        let problem = format!("is {text:?}, which browsers take for the same site as CP_PUBLIC_URL");
        return Err(refuse(
            variable,
            problem,
            "another registrable domain; WRENN_PORTS_SAME_SITE=allow takes this one",
        ));
    }
    Ok(Some(domain.host().to_owned()))
}

/// The last two labels of a host name. Where a public suffix has more, two sites look like one: that refuses too much, never too little.
fn site(host: &str) -> &str {
    let dots: Vec<usize> = host.rmatch_indices('.').map(|(at, _)| at).collect();
    dots.get(1).map_or(host, |at| &host[at + 1..])
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
