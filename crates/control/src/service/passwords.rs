//! Hashing of passwords: Argon2id, a few at once, the same work whether or not there is an account.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::{OnceCell, Semaphore};
use unicode_normalization::UnicodeNormalization;
use wrenn_domain::account::Password;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::limits::{PASSWORD_BYTES_MAX, PASSWORD_HASHES_MAX, PASSWORD_WAIT_MAX};

use super::{ServiceError, chance};

/// KiB each hash fills: what makes guessing on special hardware dear.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hasher of a process.
pub struct Passwords {
    turns: Semaphore,
    /// Of a password nobody knows: verified where there is no account, so that its absence takes as long.
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
        Self { turns: Semaphore::new(PASSWORD_HASHES_MAX), nobody: OnceCell::new() }
    }
}

impl Passwords {
    /// The PHC text of a new password.
    pub async fn hash(&self, password: &Password) -> Result<String, ServiceError> {
        let text = normal(password.reveal());
        self.work(move || hash(&text)).await
    }

    /// Compares a typed text with a stored hash. Without a stored one it does the same work in vain.
    pub async fn check(&self, stored: Option<&str>, typed: &str) -> Result<Checked, ServiceError> {
        // Longer than any password can be: it is wrong, and must not cost more than a short one.
        let typed = if typed.len() > PASSWORD_BYTES_MAX { String::new() } else { normal(typed) };
        let Some(stored) = stored.map(str::to_owned) else {
            let nobody = self.nobody.get_or_try_init(|| async {
                let secret = chance::secret()?;
                self.work(move || hash(&secret.reveal())).await
            });
            let nobody = nobody.await?.clone();
            self.work(move || verify(&nobody, &typed)).await?;
            return Ok(Checked::Wrong);
        };
        self.work(move || {
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
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let busy = || ServiceError::Busy("too many logins at once; try again".to_owned());
        let turn = tokio::time::timeout(PASSWORD_WAIT_MAX, self.turns.acquire()).await.map_err(|_| busy())?;
        let turn = turn.map_err(|_| busy())?;
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
    let salt: [u8; 16] = chance::bytes()?;
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
        let hash = passwords.hash(&long.parse().expect("valid")).await.expect("hashed");
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert_eq!(passwords.check(Some(&hash), &long).await.expect("checked"), Checked::Right);
        for wrong in [other.as_str(), &long[..199], &"x".repeat(2000), "", "x\0"] {
            assert_eq!(passwords.check(Some(&hash), wrong).await.expect("checked"), Checked::Wrong, "{wrong}");
        }
        let composed = passwords.hash(&"pässwörd😀".parse().expect("valid")).await.expect("hashed");
        let typed_on_another_keyboard = "pa\u{308}sswo\u{308}rd😀";
        assert_eq!(passwords.check(Some(&composed), typed_on_another_keyboard).await.expect("checked"), Checked::Right);
    }

    #[tokio::test]
    async fn without_an_account_every_password_is_wrong_and_takes_as_long() {
        let passwords = Passwords::default();
        let hash = passwords.hash(&"correct horse".parse().expect("valid")).await.expect("hashed");
        assert_eq!(passwords.check(None, "").await.expect("checked"), Checked::Wrong);
        let time = async |stored: Option<&str>| {
            let began = std::time::Instant::now();
            for _ in 0..5 {
                assert_eq!(passwords.check(stored, "wrong horse").await.expect("checked"), Checked::Wrong);
            }
            began.elapsed().as_secs_f64()
        };
        let (with, without) = (time(Some(&hash)).await, time(None).await);
        assert!(without / with > 0.5 && without / with < 2.0, "{with} s with, {without} s without");
    }

    #[tokio::test]
    async fn a_hash_of_lesser_strength_is_renewed_when_it_is_right() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(1024, 1, 1, None).expect("valid"));
        let weak = weak.hash_password_with_salt(b"correct horse", &[1; 16]).expect("hashed").to_string();
        let passwords = Passwords::default();
        let Checked::RightRenewed(new) = passwords.check(Some(&weak), "correct horse").await.expect("checked") else {
            panic!("renewed")
        };
        assert_eq!(passwords.check(Some(&new), "correct horse").await.expect("checked"), Checked::Right);
        assert_eq!(passwords.check(Some(&weak), "x").await.expect("checked"), Checked::Wrong);
    }
}
