//! Logins of programs without a browser: the program shows a short code, a person approves it in a browser, the program gets a
//! key that speaks for this person.

use chrono::{TimeDelta, Utc};
use wrenn_domain::event::ActorType;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{KeyId, TeamId, UserId};
use wrenn_domain::key::ApiKey;
use wrenn_domain::limits::{DEVICE_AGE_MAX, LOGIN_KEY_DAYS};
use wrenn_domain::secret::Secret;
use wrenn_store::pg::{Author, DeviceTaken, NewKey};

use super::accounts::token_hash;
use super::rates::{self, Limited};
use super::{keys, teams};
use crate::actor::Person;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::error::ServiceError;
use crate::random;

/// Letters of a user code: none that looks like another, none that makes words.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters in a code: 20^8 codes, of which few live at once, and tries are limited.
const CODE_LETTERS: usize = 8;
const CLIENT_CHARS_MAX: usize = 100;

/// A login that waits.
#[derive(Debug)]
pub struct Begun {
    pub device: Secret,
    /// `XXXX-XXXX`
    pub user_code: String,
}

/// Begins a login.
///
/// # Errors
/// When it is tried too often, the values are not valid, or the database is away.
pub async fn begin(ctx: &Context, from: ClientAddress, client: Option<String>) -> Result<Begun, ServiceError> {
    rates::take_address(ctx, Limited::BeginDevice, from).await?;
    let client = client.map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).unwrap_or_else(|| "a program".into());
    if client.chars().count() > CLIENT_CHARS_MAX || client.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("client: at most {CLIENT_CHARS_MAX} printable characters")).into());
    }
    let device = random::secret()?;
    // Two codes meet about never; a few draws are enough for that.
    for _ in 0..4 {
        let user_code = code()?;
        if ctx.store.device_create(&device.hash(), &user_code, &client, DEVICE_AGE_MAX).await? {
            return Ok(Begun { device, user_code });
        }
    }
    Err(Failure::new(FailureKind::Internal, "no free code was found; try again").into())
}

/// Finds what waits under a code, so that a person knows what they approve.
///
/// # Errors
/// When nothing waits under the code, it is tried too often, or the database is away.
pub async fn find(ctx: &Context, person: &Person, user_code: &str) -> Result<String, ServiceError> {
    rates::take_account(ctx, Limited::ApproveDevice, &person.user.to_string()).await?;
    Ok(ctx.store.device_client(&tidy(user_code)?).await?.ok_or_else(no_such_code)?)
}

/// Lets a waiting program in, in the name of the person, in the team the person works in.
///
/// # Errors
/// When nothing waits under the code, it is tried too often, or the database is away.
pub async fn approve(ctx: &Context, person: &Person, user_code: &str) -> Result<(), ServiceError> {
    rates::take_account(ctx, Limited::ApproveDevice, &person.user.to_string()).await?;
    let team = teams::chosen(person, None)?;
    if !ctx.store.device_approve(&tidy(user_code)?, person.user, team).await? {
        return Err(no_such_code().into());
    }
    Ok(())
}

/// Asks whether somebody approved; the key is given once. None: not yet.
///
/// # Errors
/// When nothing waits under the code, it is tried too often, or the database is away.
pub async fn ask(ctx: &Context, from: ClientAddress, device: &str) -> Result<Option<(NewKey, ApiKey)>, ServiceError> {
    rates::take_address(ctx, Limited::AskDevice, from).await?;
    let over = || Failure::invalid("this login is over; begin again");
    let device = token_hash(device).ok_or_else(over)?;
    let secret = ApiKey::from_random(random::bytes()?);
    let id = KeyId::from_uuid(random::id());
    let key = |user: UserId, email: &str, team: TeamId, client: String| {
        let key = NewKey {
            id,
            team,
            name: client,
            hash: secret.hash(),
            prefix: secret.visible_prefix(),
            created_by: Some(user),
            personal: true,
            expires_at: Some(Utc::now() + TimeDelta::days(LOGIN_KEY_DAYS)),
        };
        let author = Author { kind: ActorType::User, id: Some(user.to_string()), name: email.to_owned() };
        let audit = keys::made(&key, author).with("login", "device");
        (key, audit)
    };
    match ctx.store.device_take(&device, key).await? {
        DeviceTaken::Waiting => Ok(None),
        DeviceTaken::Done(key) => Ok(Some((*key, secret))),
        DeviceTaken::Gone => Err(over().into()),
    }
}

fn code() -> Result<String, Failure> {
    let mut text = String::with_capacity(CODE_LETTERS + 1);
    while text.len() < CODE_LETTERS {
        // 240 is twelve times twenty: what is above would make some letters likelier.
        for byte in random::bytes::<16>()?.into_iter().filter(|b| *b < 240) {
            if text.len() < CODE_LETTERS {
                text.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            }
        }
    }
    text.insert(CODE_LETTERS / 2, '-');
    Ok(text)
}

/// However a person typed it.
fn tidy(typed: &str) -> Result<String, Failure> {
    let letters: String = typed.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_uppercase()).collect();
    if letters.len() != CODE_LETTERS || !letters.bytes().all(|b| LETTERS.contains(&b)) {
        return Err(no_such_code());
    }
    let (one, two) = letters.split_at(CODE_LETTERS / 2);
    Ok(format!("{one}-{two}"))
}

fn no_such_code() -> Failure {
    Failure::not_found("no program waits under this code; it may be over, or used already")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_it_is_typed() {
        let code = code().expect("drawn");
        assert_eq!(code.len(), 9);
        assert_eq!(tidy(&code), Ok(code.clone()));
        assert_eq!(tidy(&format!(" {} ", code.to_lowercase().replace('-', ""))), Ok(code));
        for bad in ["", "AAAA-AAAA", "BCDF-GHJ", "BCDF-GHJK-L", "éééé-éééé"] {
            assert!(tidy(bad).is_err(), "{bad}");
        }
    }
}
