//! People to start a test from.

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::{OutboundJobId, TeamId, UserId};
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::Store;
use wrenn_store::pg::{Activated, NewOutboundJob, OutboundJobKind, SignUp, SignedUp, TokenPurpose};

pub fn secret() -> Secret {
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(a.as_bytes());
    bytes[16..].copy_from_slice(b.as_bytes());
    Secret::from_random(bytes)
}

pub fn slug() -> String {
    Uuid::new_v4().simple().to_string()
}

pub fn sign_up(email: &str) -> SignUp {
    SignUp {
        user: UserId::from_uuid(Uuid::new_v4()),
        first_team: TeamId::from_uuid(Uuid::new_v4()),
        email: email.parse().expect("an address"),
        name: "Ann".parse().expect("a name"),
        keep: Duration::from_secs(600),
    }
}

/// A mail to be sent.
pub fn mail() -> NewOutboundJob {
    NewOutboundJob { id: mail_id(), kind: OutboundJobKind::Mail, key: None, payload: serde_json::json!({}) }
}

pub fn mail_id() -> OutboundJobId {
    OutboundJobId::from_uuid(Uuid::new_v4())
}

/// Signs up, without activation; answers the token of the mail.
pub async fn pending(store: &Store, email: &str) -> SecretHash {
    assert_eq!(store.user_sign_up(&sign_up(email), |_| mail()).await.expect("stored"), SignedUp::Pending);
    token(store, email, TokenPurpose::Activation).await
}

/// A token as a mail carries it.
pub async fn token(store: &Store, email: &str, purpose: TokenPurpose) -> SecretHash {
    let token = secret().hash();
    let email = email.parse().expect("an address");
    let issued = store.token_issue(mail_id(), purpose, &email, &token, Duration::from_secs(600)).await;
    issued.expect("asked").expect("somebody's");
    token
}

/// An active account with its first team.
pub async fn person(store: &Store, email: &str) -> Activated {
    let token = pending(store, email).await;
    store.user_activate(&token, &slug(), Some("hash"), |_| Vec::new()).await.expect("asked").expect("activated")
}
