//! What channels are configured with, sealed before the database sees it: AES-256-GCM, bound to its channel, with the key of
//! WRENN_ENCRYPTION_KEY. Several keys can be given: the first seals, all open, so that keys can be changed.
//!
//! ```text
//! version 1 | mark of the key: 4 bytes | nonce: 12 bytes | ciphertext and tag
//! ```

use std::collections::BTreeMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use wrenn_domain::ids::ChannelId;
use wrenn_domain::secret::Secret;

use crate::random;

const VERSION: u8 = 1;
const MARK_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + MARK_BYTES + NONCE_LEN;

/// Why something was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("WRENN_ENCRYPTION_KEY is not set")]
    NoKey,
    #[error("it was sealed with a key that WRENN_ENCRYPTION_KEY does not name any more")]
    OtherKey,
    #[error("it was changed after it was sealed, or a later version sealed it")]
    Damaged,
    #[error("the system gives no random numbers")]
    NoChance,
}

/// The keys.
pub struct Sealer(Vec<(Mark, LessSafeKey)>);

type Mark = [u8; MARK_BYTES];

impl Sealer {
    /// With these keys; none: nothing can be sealed or opened.
    pub fn new(keys: &[Secret]) -> Self {
        let key = |secret: &Secret| {
            let mark = secret.derive("mark of a sealing key");
            let own = secret.derive("configurations of channels");
            // It takes any 32 bytes.
            let key = UnboundKey::new(&AES_256_GCM, own.as_bytes()).ok()?;
            let mark = *mark.as_bytes().first_chunk()?;
            Some((mark, LessSafeKey::new(key)))
        };
        Self(keys.iter().filter_map(key).collect())
    }

    /// Whether there is a key.
    pub fn is_ready(&self) -> bool {
        !self.0.is_empty()
    }

    /// Seals the values of a channel.
    ///
    /// # Errors
    /// When there is no key or the system gives no random numbers.
    pub fn seal(&self, channel: ChannelId, values: &BTreeMap<String, String>) -> Result<Vec<u8>, SealError> {
        let (mark, key) = self.0.first().ok_or(SealError::NoKey)?;
        let nonce: [u8; NONCE_LEN] = random::bytes().map_err(|_| SealError::NoChance)?;
        let mut text = serde_json::to_vec(values).map_err(|_| SealError::Damaged)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound(channel), &mut text)
            .map_err(|_| SealError::Damaged)?;
        let mut sealed = Vec::with_capacity(HEAD_BYTES + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(mark);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what was sealed for this channel.
    ///
    /// # Errors
    /// When there is no key that opens it, or it is not what was sealed for this channel.
    pub fn open(&self, channel: ChannelId, sealed: &[u8]) -> Result<BTreeMap<String, String>, SealError> {
        let (&version, rest) = sealed.split_first().ok_or(SealError::Damaged)?;
        let (mark, rest) = rest.split_first_chunk::<MARK_BYTES>().ok_or(SealError::Damaged)?;
        let (&nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Damaged)?;
        if version != VERSION {
            return Err(SealError::Damaged);
        }
        if self.0.is_empty() {
            return Err(SealError::NoKey);
        }
        let (_, key) = self.0.iter().find(|(its, _)| its == mark).ok_or(SealError::OtherKey)?;
        let mut text = text.to_vec();
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), bound(channel), &mut text)
            .map_err(|_| SealError::Damaged)?;
        serde_json::from_slice(opened).map_err(|_| SealError::Damaged)
    }
}

/// Binds a sealed configuration to its channel: it opens for no other.
fn bound(channel: ChannelId) -> Aad<String> {
    Aad::from(format!("wrenn channel {channel}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn key(n: u8) -> Secret {
        Secret::from_random([n; 32])
    }

    fn id(n: u128) -> ChannelId {
        ChannelId::from_uuid(Uuid::from_u128(n))
    }

    #[test]
    fn what_is_sealed_opens_for_its_channel_alone_and_only_unchanged() {
        let sealer = Sealer::new(&[key(1)]);
        let values: BTreeMap<_, _> = [("url".to_owned(), "https://example.com/hunter2".to_owned())].into();
        let sealed = sealer.seal(id(1), &values).unwrap();
        assert_ne!(sealed, sealer.seal(id(1), &values).unwrap(), "never twice the same");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_eq!(sealer.open(id(1), &sealed), Ok(values));
        assert_eq!(sealer.open(id(2), &sealed), Err(SealError::Damaged));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(sealer.open(id(1), &bent).is_err(), "byte {at}");
            assert!(sealer.open(id(1), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn keys_can_be_changed() {
        let values = BTreeMap::new();
        let (old, both, new) = (Sealer::new(&[key(1)]), Sealer::new(&[key(2), key(1)]), Sealer::new(&[key(2)]));
        let sealed = old.seal(id(1), &values).unwrap();
        assert!(both.open(id(1), &sealed).is_ok());
        assert_eq!(new.open(id(1), &sealed), Err(SealError::OtherKey));
        assert!(new.open(id(1), &both.seal(id(1), &values).unwrap()).is_ok());
        assert_eq!(Sealer::new(&[]).seal(id(1), &values), Err(SealError::NoKey));
        assert_eq!(Sealer::new(&[]).open(id(1), &sealed), Err(SealError::NoKey));
    }
}
