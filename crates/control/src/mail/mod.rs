//! Mail: what is owed ([`Mail`]), what is written ([`letter`]), and how it leaves ([`delivery`]).
//!
//! A mail is an outbound job, written in the transaction that needs it: a request never waits for a mail server, and no process takes a mail with
//! it. Tokens are not in the job; service/mails.rs makes them when the mail leaves (decisions/0009).

mod delivery;
mod letter;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wrenn_domain::account::Email;
use wrenn_domain::ids::OutboundJobId;
use wrenn_store::pg::{NewOutboundJob, OutboundJobKind};

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
    /// Mail that says that there is an account already.
    AlreadySignedUp {
        to: String,
    },
    /// Brings the token that resets a password, if there is an account.
    Reset {
        to: String,
    },
    Letter(Letter),
    /// No mail at all: it is enqueued only so that a request takes as long as another.
    Nothing {
        to: String,
    },
}

impl Mail {
    /// The outbound job to write.
    pub fn outbound_job(&self) -> NewOutboundJob {
        let payload = serde_json::to_value(self).expect("texts and lists of texts are JSON");
        NewOutboundJob {
            id: OutboundJobId::from_uuid(Uuid::new_v4()),
            kind: OutboundJobKind::Mail,
            key: self.key(),
            payload,
        }
    }

    /// Key under which at most one mail waits per address, for mails that anybody can ask for.
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

    /// Mail that says that there is an account already.
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
