//! Random values drawn from the system: secrets, ids, slugs.

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::secret::Secret;

/// Random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Failure::new(FailureKind::Internal, "the system gives no random numbers"))?;
    Ok(bytes)
}

/// A fresh secret.
pub fn secret() -> Result<Secret, Failure> {
    bytes().map(Secret::from_random)
}

/// A fresh id's value.
pub fn id() -> Uuid {
    Uuid::new_v4()
}

/// A team's first slug: `xxxxxx-xxxxxx`.
pub fn slug() -> Result<String, Failure> {
    let bytes: [u8; 6] = bytes()?;
    Ok(format!("{}-{}", hex::encode(&bytes[..3]), hex::encode(&bytes[3..])))
}
