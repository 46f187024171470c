//! Mail: what is written ([`letter`]), how it leaves ([`delivery`]), and the queue between. A request never waits for a mail
//! server; a mail that is lost with the process is asked for again by its reader.

mod delivery;
mod letter;

use std::sync::Mutex;

use tokio::sync::mpsc;
use wrenn_domain::limits::MAILS_WAITING_MAX;
use wrenn_domain::secret::Secret;

use crate::config::Accounts;

pub use delivery::{Delivery, DeliveryError};
pub use letter::Letter;

/// The way mails leave. Never waits.
pub struct Mailer {
    frontend_url: String,
    to: mpsc::Sender<Letter>,
    from: Mutex<Option<mpsc::Receiver<Letter>>>,
}

impl Mailer {
    /// A mailer with an empty queue.
    pub fn new(accounts: &Accounts) -> Self {
        let (to, from) = mpsc::channel(MAILS_WAITING_MAX);
        Self { frontend_url: accounts.frontend_url.clone(), to, from: Mutex::new(Some(from)) }
    }

    /// Puts a letter into the queue. A full queue drops it and says so.
    pub fn send(&self, letter: Letter) {
        if let Err(refused) = self.to.try_send(letter) {
            let (mpsc::error::TrySendError::Full(letter) | mpsc::error::TrySendError::Closed(letter)) = refused;
            tracing::error!(mail = letter.kind(), "too many mails are waiting; one is dropped");
        }
    }

    /// The page of the frontend that takes a token.
    pub fn link(&self, page: &str, token: &Secret) -> String {
        format!("{}/{page}?token={}", self.frontend_url, token.reveal())
    }

    /// The queue's other end, for the one task that delivers.
    pub(crate) fn take_queue(&self) -> Option<mpsc::Receiver<Letter>> {
        self.from.lock().expect("no panic while held").take()
    }
}
