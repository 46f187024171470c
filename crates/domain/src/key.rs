//! API keys: `wrn_` and 32 lower-case hex characters. Only the hash is ever stored; the text is shown once.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Text of every key before its random part.
pub const PREFIX: &str = "wrn_";

/// An API key in the clear. Its Debug form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey([u8; 16]);

/// SHA-256 of the whole key text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiKeyHash(pub [u8; 32]);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an API key is wrn_ followed by 32 characters 0-9 a-f")]
pub struct InvalidKey;

impl ApiKey {
    /// Makes a key of 16 random bytes drawn by the caller.
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The full text. Show it once, never log it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", hex::encode(self.0))
    }

    /// Hash of the key, which is what is stored and compared.
    pub fn hash(&self) -> ApiKeyHash {
        ApiKeyHash(Sha256::digest(self.reveal().as_bytes()).into())
    }

    /// First 10 characters, to recognise a key by.
    pub fn visible_prefix(&self) -> String {
        self.reveal()[..10].to_owned()
    }
}

impl ApiKeyHash {
    /// Lower-case hex, as the database holds it.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for ApiKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidKey)?;
        if digits.len() != 32 || digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidKey);
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| InvalidKey)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(wrn_...)")
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_parses_back_and_its_debug_form_hides_it() {
        let key = ApiKey::from_random([0xab; 16]);
        assert_eq!(key.reveal().parse::<ApiKey>(), Ok(key.clone()));
        assert_eq!(format!("{key:?} {:?}", key.hash()), "ApiKey(wrn_...) ApiKeyHash(...)");
        assert_eq!(key.visible_prefix(), "wrn_ababab");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "wrn_",
            "wrn_ABABABABABABABABABABABABABABABAB",
            "abc_00000000000000000000000000000000",
            "wrn_é0000000000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<ApiKey>(), Err(InvalidKey), "{bad}");
        }
    }
}
