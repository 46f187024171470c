//! Hashing of passwords: Argon2id, a few at once, the same work whether or not there is an account.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::OnceCell;
use unicode_normalization::UnicodeNormalization;
use wrenn_domain::account::Password;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::limits::{
    PASSWORD_BYTES_MAX, PASSWORD_HASHES_MAX, PASSWORD_HASHES_PER_NETWORK_MAX, PASSWORD_WAIT_MAX,
};

use crate::error::ServiceError;
use crate::random;
use crate::state::pool::Pool;

/// KiB each hash fills: what makes guessing on special hardware dear.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hasher of a process.
pub struct Passwords {
    /// Turns, by the network that asks.
    turns: Arc<Pool<String>>,
    /// Hash of a password nobody knows: verified where there is no account, so that its absence takes as long.
    nobody: OnceCell<String>,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    Wrong,
    Right,
    /// Right, and the stored hash is of yesterday's strength: store this one.
    RightRenewed(String),
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Pool::new(PASSWORD_HASHES_MAX, PASSWORD_HASHES_PER_NETWORK_MAX), nobody: OnceCell::new() }
    }
}

impl Passwords {
    /// The PHC text of a new password.
    ///
    /// # Errors
    /// When too many hashes are under way, or hashing fails.
    pub async fn hash(&self, network: &str, password: &Password) -> Result<String, ServiceError> {
        let text = normal(password.reveal());
        self.work(network, move || hash(&text)).await
    }

    /// Compares a typed text with a stored hash. Without a stored one it does the same work in vain.
    ///
    /// # Errors
    /// When too many hashes are under way, or hashing fails.
    pub async fn check(&self, network: &str, stored: Option<&str>, typed: &str) -> Result<Checked, ServiceError> {
        // Longer than any password can be: it is wrong, and must not cost more than a short one.
        let typed = if typed.len() > PASSWORD_BYTES_MAX { String::new() } else { normal(typed) };
        let Some(stored) = stored.map(str::to_owned) else {
            let nobody = self.nobody.get_or_try_init(|| async {
                let secret = random::secret()?;
                self.work(network, move || hash(&secret.reveal())).await
            });
            let nobody = nobody.await?.clone();
            self.work(network, move || verify(&nobody, &typed)).await?;
            return Ok(Checked::Wrong);
        };
        self.work(network, move || {
            if !verify(&stored, &typed)? {
                return Ok(Checked::Wrong);
            }
            if is_current(&stored) { Ok(Checked::Right) } else { hash(&typed).map(Checked::RightRenewed) }
        })
        .await
    }

    /// Runs on a thread that may block, when its turn comes.
    async fn work<T: Send + 'static>(
        &self,
        network: &str,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let busy = || ServiceError::Busy("too many logins at once; try again".to_owned());
        let turn = self.turns.wait(network.to_owned(), PASSWORD_WAIT_MAX).await.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(work).await;
        drop(turn);
        done.map_err(|_| broken())?.map_err(ServiceError::from)
    }
}

/// One text for what looks the same: two keyboards may write one letter as different characters.
fn normal(text: &str) -> String {
    text.nfc().collect()
}

fn argon2() -> Result<Argon2<'static>, Failure> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| broken())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(text: &str) -> Result<String, Failure> {
    let salt: [u8; 16] = random::bytes()?;
    let hash = argon2()?.hash_password_with_salt(text.as_bytes(), &salt).map_err(|_| broken())?;
    Ok(hash.to_string())
}

fn verify(stored: &str, typed: &str) -> Result<bool, Failure> {
    let stored = PasswordHash::new(stored).map_err(|_| broken())?;
    Ok(argon2()?.verify_password(typed.as_bytes(), &stored).is_ok())
}

fn is_current(stored: &str) -> bool {
    stored.starts_with(&format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$"))
}

fn broken() -> Failure {
    Failure::new(FailureKind::Internal, "something went wrong here; the request id finds it in the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_and_unicode_passwords_count_to_their_last_byte() {
        let passwords = Passwords::default();
        let long = "x".repeat(200);
        let other = format!("{}y", "x".repeat(199));
        let hash = passwords.hash("x", &long.parse().expect("valid")).await.expect("hashed");
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert_eq!(passwords.check("x", Some(&hash), &long).await.expect("checked"), Checked::Right);
        for wrong in [other.as_str(), &long[..199], &"x".repeat(2000), "", "x\0"] {
            assert_eq!(passwords.check("x", Some(&hash), wrong).await.expect("checked"), Checked::Wrong, "{wrong}");
        }
        let composed = passwords.hash("x", &"pässwörd😀".parse().expect("valid")).await.expect("hashed");
        let typed_on_another_keyboard = "pa\u{308}sswo\u{308}rd😀";
        assert_eq!(
            passwords.check("x", Some(&composed), typed_on_another_keyboard).await.expect("checked"),
            Checked::Right
        );
    }

    #[tokio::test]
    async fn without_an_account_every_password_is_wrong_after_the_same_work() {
        let passwords = Passwords::default();
        assert_eq!(passwords.check("x", None, "").await.expect("checked"), Checked::Wrong);
        assert_eq!(passwords.check("x", None, "wrong horse").await.expect("checked"), Checked::Wrong);
        // What is verified in vain has the algorithm and the cost of a real hash.
        let real = passwords.hash("x", &"correct horse".parse().expect("valid")).await.expect("hashed");
        let vain = passwords.nobody.get().expect("made by the first check");
        let (real, vain) = (PasswordHash::new(&real).expect("a hash"), PasswordHash::new(vain).expect("a hash"));
        assert_eq!((vain.algorithm, vain.version, &vain.params), (real.algorithm, real.version, &real.params));
    }

    #[tokio::test]
    async fn a_hash_of_lesser_strength_is_renewed_when_it_is_right() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(1024, 1, 1, None).expect("valid"));
        let weak = weak.hash_password_with_salt(b"correct horse", &[1; 16]).expect("hashed").to_string();
        let passwords = Passwords::default();
        let Checked::RightRenewed(new) = passwords.check("x", Some(&weak), "correct horse").await.expect("checked")
        else {
            panic!("renewed")
        };
        assert_eq!(passwords.check("x", Some(&new), "correct horse").await.expect("checked"), Checked::Right);
        assert_eq!(passwords.check("x", Some(&weak), "x").await.expect("checked"), Checked::Wrong);
    }
}
