//! The part of the configuration that concerns notification channels.

use wrenn_domain::secret::Secret;

use super::reader::{ConfigError, Reader, refuse};

/// Settings of channels.
#[derive(Clone)]
pub struct ChannelSettings {
    /// WRENN_ENCRYPTION_KEY: what they are configured with is sealed with the first and opened with any; none: there are no channels.
    pub keys: Vec<Secret>,
    /// WRENN_CHANNELS_ALLOW_PRIVATE: channels may lead to addresses of this machine and its networks.
    pub allow_private: bool,
}

impl ChannelSettings {
    pub(super) fn parse(read: &Reader<'_>) -> Result<Self, ConfigError> {
        let variable = "WRENN_ENCRYPTION_KEY";
        let key = |text: &str| {
            text.trim().parse().map_err(|_| {
                let expected = "64 characters 0-9 a-f (`openssl rand -hex 32` makes them), or several such, comma-separated, the new one first";
                refuse(variable, "is not such a key".to_owned(), expected)
            })
        };
        let keys = read.text(variable).map_or(Ok(Vec::new()), |text| text.split(',').map(key).collect())?;
        let variable = "WRENN_CHANNELS_ALLOW_PRIVATE";
        let allow_private = match read.text(variable) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(refuse(variable, format!("is {other:?}"), "true or false")),
        };
        Ok(Self { keys, allow_private })
    }
}
