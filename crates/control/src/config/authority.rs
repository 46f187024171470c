//! WRENN_CA_CERT and WRENN_CA_KEY: the certificate authority of the installation.

use std::borrow::Cow;
use std::sync::Arc;

use super::reader::{ConfigError, Reader, refuse};
use crate::ca::Ca;

const CERT: &str = "WRENN_CA_CERT";
const KEY: &str = "WRENN_CA_KEY";
/// Bytes of a PEM file; a chain of large keys has fewer.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads both settings or none; a pair that does not work is an error.
pub(super) fn parse(read: &Reader<'_>) -> Result<Option<Arc<Ca>>, ConfigError> {
    match (read.text(CERT), read.text(KEY)) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(bad(CERT, "is set without WRENN_CA_KEY".to_owned())),
        (None, Some(_)) => Err(bad(KEY, "is set without WRENN_CA_CERT".to_owned())),
        (Some(cert), Some(key)) => {
            let ca = Ca::new(&text(CERT, cert)?, &text(KEY, key)?);
            ca.map(|ca| Some(Arc::new(ca)))
                .map_err(|error| bad(if error.is_of_key() { KEY } else { CERT }, error.to_string()))
        }
    }
}

/// The PEM text itself, or what the file of that name holds. Never part of an error: it may be the key.
fn text<'a>(variable: &'static str, value: &'a str) -> Result<Cow<'a, str>, ConfigError> {
    if value.starts_with("-----BEGIN ") {
        return Ok(Cow::Borrowed(value));
    }
    let unreadable = || bad(variable, "is neither PEM text nor a file that can be read".to_owned());
    let size = std::fs::metadata(value).map_err(|_| unreadable())?.len();
    if size > FILE_BYTES_MAX {
        return Err(bad(variable, "names a file that is too large".to_owned()));
    }
    std::fs::read_to_string(value).map(Cow::Owned).map_err(|_| unreadable())
}

fn bad(variable: &'static str, problem: String) -> ConfigError {
    refuse(
        variable,
        problem,
        "the certificate (WRENN_CA_CERT) and PKCS #8 key (WRENN_CA_KEY) of an authority, as PEM text or file names",
    )
}
