//! Entries in Redis that are believed: each carries a code made with the installation's secret, over its text and its key.
//!
//! Whoever can write to Redis can remove an entry, or put one back for as long as its own time says, and nothing else.

use ring::hmac;

use crate::context::Context;
use crate::error::ServiceError;

/// Purpose the code's key is derived for.
const PURPOSE: &str = "wrenn redis entries";

/// Puts a code before a text that is to be kept under a key.
///
/// # Errors
/// When the installation's secret cannot be had.
pub(crate) async fn sign(ctx: &Context, key: &str, text: &str) -> Result<String, ServiceError> {
    let tag = hmac::sign(&code_key(ctx).await?, &bound(key, text));
    Ok(format!("{} {text}", hex::encode(tag)))
}

/// Takes the code off; none when it is not this text's, under this key and of this installation.
///
/// # Errors
/// When the installation's secret cannot be had.
pub(crate) async fn verify<'a>(ctx: &Context, key: &str, signed: &'a str) -> Result<Option<&'a str>, ServiceError> {
    let Some((code, text)) = signed.split_once(' ') else { return Ok(None) };
    let Ok(code) = hex::decode(code) else { return Ok(None) };
    Ok(hmac::verify(&code_key(ctx).await?, &bound(key, text), &code).is_ok().then_some(text))
}

async fn code_key(ctx: &Context) -> Result<hmac::Key, ServiceError> {
    let secret = ctx.installation_secret().await?.derive(PURPOSE);
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
}

/// Bytes of both parts, so that no key and text give the same bytes as another key and text.
fn bound(key: &str, text: &str) -> Vec<u8> {
    let mut bytes = (key.len() as u64).to_be_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
