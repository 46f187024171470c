//! Mail: what is owed ([`Mail`]), what is written ([`letter`]), and how it leaves ([`delivery`]).
//!
//! A mail is an errand of the transaction that owes it: a request never waits for a mail server, and no process takes a mail with
//! it. Tokens are not in the errand; service/mails.rs makes them when the mail leaves (decisions/0009).

mod delivery;
mod letter;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wrenn_domain::account::Email;
use wrenn_store::pg::{ErrandKind, NewErrand};

pub use delivery::{Delivery, DeliveryError};
pub use letter::Letter;

/// A mail that is owed, as it waits in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mail {
    /// Brings the token that confirms an address.
    Activation {
        to: String,
    },
    /// Says that there is an account already.
    AlreadySignedUp {
        to: String,
    },
    /// Brings the token that resets a password, if there is an account.
    Reset {
        to: String,
    },
    Letter(Letter),
    /// Says nothing to nobody: it was owed only so that a request took as long as another.
    Nothing {
        to: String,
    },
}

impl Mail {
    /// The errand to write.
    pub fn owed(&self) -> NewErrand {
        let payload = serde_json::to_value(self).expect("texts and lists of texts are JSON");
        NewErrand { id: Uuid::new_v4(), kind: ErrandKind::Mail, key: self.key(), payload }
    }

    /// Of mails that anybody can ask for one waits per address.
    fn key(&self) -> Option<String> {
        match self {
            Self::Activation { to } | Self::AlreadySignedUp { to } | Self::Nothing { to } => {
                Some(format!("sign-up:{to}"))
            }
            Self::Reset { to } => Some(format!("reset:{to}")),
            Self::Letter(_) => None,
        }
    }

    /// Brings the token that confirms an address.
    pub fn activation(to: &Email) -> Self {
        Self::Activation { to: to.to_string() }
    }

    /// Says that there is an account already.
    pub fn already_signed_up(to: &Email) -> Self {
        Self::AlreadySignedUp { to: to.to_string() }
    }

    /// Brings the token that resets a password.
    pub fn reset(to: &Email) -> Self {
        Self::Reset { to: to.to_string() }
    }

    /// For an address that must not get a mail.
    pub fn nothing(to: &Email) -> Self {
        Self::Nothing { to: to.to_string() }
    }
}
