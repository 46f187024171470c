//! How a mail leaves: by a mail server, or into files where there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::response::Code;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use uuid::Uuid;
use wrenn_domain::account::Email;

use super::Letter;
use crate::config::{Accounts, Smtp, SmtpTls};

/// Files kept; the oldest go.
const FILES_MAX: usize = 1000;

/// One way out.
pub struct Delivery {
    from: Email,
    send_max: Duration,
    way: Way,
}

enum Way {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Files(PathBuf),
}

/// Why a mail did not leave.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("the mail cannot be written")]
    Malformed(#[from] lettre::error::Error),
    #[error("the mail server did not take the mail")]
    Smtp(#[from] lettre::transport::smtp::Error),
    #[error("the mail cannot be put into {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the mail server took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl DeliveryError {
    /// Whether another try of the mail would be refused again.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Malformed(_) => true,
            // Whoever runs this can set a login right; the mail waits for that.
            Self::Smtp(error) => error.is_permanent() && !error.status().is_some_and(wants_login),
            Self::File { .. } | Self::TimedOut(_) => false,
        }
    }
}

impl Delivery {
    /// Prepares the way the settings name. Connects nothing.
    ///
    /// # Errors
    /// When TLS cannot be prepared for the server's name.
    pub fn new(accounts: &Accounts, send_max: Duration) -> Result<Self, DeliveryError> {
        let way = match &accounts.smtp {
            Some(smtp) => Way::Smtp(transport(smtp, send_max)?),
            None => Way::Files(accounts.mail_dir.clone()),
        };
        Ok(Self { from: accounts.mail_from.clone(), send_max, way })
    }

    /// Where mails go, for the log.
    pub fn describe(&self) -> String {
        match &self.way {
            Way::Smtp(_) => "to the mail server".to_owned(),
            Way::Files(dir) => format!("into files in {} (SMTP_HOST is not set)", dir.display()),
        }
    }

    /// Sends one letter. `id` is the same in every try.
    ///
    /// # Errors
    /// When the mail cannot be written, or the way out does not take it in time.
    pub async fn deliver(&self, letter: &Letter, id: Uuid) -> Result<(), DeliveryError> {
        let message = letter.message(&self.from, id)?;
        match &self.way {
            Way::Smtp(transport) => {
                let sent = tokio::time::timeout(self.send_max, transport.send(message)).await;
                sent.map_err(|_| DeliveryError::TimedOut(self.send_max))??;
                Ok(())
            }
            Way::Files(dir) => put(dir, letter.kind(), &message.formatted())
                .await
                .map_err(|source| DeliveryError::File { path: dir.clone(), source }),
        }
    }
}

/// 530, 534, 535, 538: no login, a wrong one, or one in the clear.
fn wants_login(code: Code) -> bool {
    matches!(u16::from(code), 530 | 534 | 535 | 538)
}

fn transport(smtp: &Smtp, send_max: Duration) -> Result<AsyncSmtpTransport<Tokio1Executor>, DeliveryError> {
    let tls = match smtp.tls {
        SmtpTls::Off => Tls::None,
        SmtpTls::Offered => Tls::Opportunistic(TlsParameters::new(smtp.host.clone())?),
        SmtpTls::Required => Tls::Required(TlsParameters::new(smtp.host.clone())?),
        SmtpTls::Implicit => Tls::Wrapper(TlsParameters::new(smtp.host.clone())?),
    };
    let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .tls(tls)
        .timeout(Some(send_max));
    Ok(match &smtp.login {
        Some((name, password)) => builder.credentials(Credentials::new(name.clone(), password.clone())),
        None => builder,
    }
    .build())
}

/// Writes one `.eml`, readable by the owner only: mails hold tokens.
async fn put(dir: &Path, kind: &str, mail: &[u8]) -> std::io::Result<()> {
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).await?;
    let now = chrono::Utc::now().format("%Y%m%dT%H%M%S%.6f");
    let unique = getrandom::u32().map_err(std::io::Error::other)?;
    let path = dir.join(format!("{now}-{kind}-{unique:08x}.eml"));
    let fresh = path.with_extension("new");
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, mail).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    // Readers see whole mails only.
    tokio::fs::rename(&fresh, &path).await?;
    prune(dir).await
}

async fn prune(dir: &Path) -> std::io::Result<()> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.path().extension().is_some_and(|e| e == "eml") {
            names.push(entry.path());
        }
    }
    if names.len() > FILES_MAX {
        // Names begin with their time.
        names.sort();
        for old in &names[..names.len() - FILES_MAX] {
            tokio::fs::remove_file(old).await?;
        }
    }
    Ok(())
}
