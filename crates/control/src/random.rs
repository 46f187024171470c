//! Random values drawn from the system: secrets, ids, slugs.

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::names::ProcessTag;
use wrenn_domain::secret::Secret;

/// Draws random bytes.
///
/// # Errors
/// When the system gives no random numbers.
pub fn bytes<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Failure::new(FailureKind::Internal, "the system gives no random numbers"))?;
    Ok(bytes)
}

/// Draws a fresh secret.
///
/// # Errors
/// When the system gives no random numbers.
pub fn secret() -> Result<Secret, Failure> {
    bytes().map(Secret::from_random)
}

/// Draws a fresh id's value.
pub fn id() -> Uuid {
    Uuid::new_v4()
}

/// Draws a team's first slug: `xxxxxx-xxxxxx`.
///
/// # Errors
/// When the system gives no random numbers.
pub fn slug() -> Result<String, Failure> {
    let bytes: [u8; 6] = bytes()?;
    Ok(format!("{}-{}", hex::encode(&bytes[..3]), hex::encode(&bytes[3..])))
}

/// Draws a tag for a process that was given none: the prefix and eight hex characters.
///
/// # Errors
/// When the system gives no random numbers.
pub fn tag(prefix: &str) -> Result<ProcessTag, Failure> {
    format!("{prefix}-{}", hex::encode(bytes::<4>()?)).parse()
}
