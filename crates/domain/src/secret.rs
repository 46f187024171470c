//! Random secrets given to a person once: session ids, tokens in mails, device codes. Only their hash is ever stored.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// 32 random bytes in the clear, shown as 64 lower-case hex characters. Its Debug form hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// SHA-256 of a secret's text, as lower-case hex: what is stored and looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretHash(String);

/// Why a text is not a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is 64 characters 0-9 a-f")]
pub struct InvalidSecret;

impl Secret {
    /// Wraps bytes drawn by the caller.
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A secret from a text that is one, such as a setting.
    pub fn from_text(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The full text. Give it to its owner, never log it.
    pub fn reveal(&self) -> String {
        hex::encode(self.0)
    }

    /// As a key of 256 bits.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hash of the secret, which is what is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash(hex::encode(Sha256::digest(self.reveal().as_bytes())))
    }

    /// A second secret that follows from this one for one purpose. Whoever holds the result learns nothing of this one.
    pub fn derive(&self, purpose: &str) -> Self {
        let mut hasher = Sha256::new();
        // The length keeps two purposes from ever meeting.
        hasher.update((purpose.len() as u64).to_be_bytes());
        hasher.update(purpose.as_bytes());
        hasher.update(self.0);
        Self(hasher.finalize().into())
    }
}

impl SecretHash {
    /// Lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        bytes(text).map(Self)
    }
}

impl FromStr for SecretHash {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        bytes(text).map(|_| Self(text.to_owned()))
    }
}

fn bytes(text: &str) -> Result<[u8; 32], InvalidSecret> {
    if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(InvalidSecret);
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidSecret)?;
    Ok(bytes)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_parses_back_hides_itself_and_derives_apart() {
        let secret = Secret::from_random([7; 32]);
        assert_eq!(secret.reveal().parse::<Secret>(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(...)");
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_ne!(secret.derive("a").hash(), secret.hash());
        for bad in ["", "zz", &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
            assert!(bad.parse::<SecretHash>().is_err(), "{bad}");
        }
    }
}
