//! Labels on a sandbox, checked once at the door.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::limits::{METADATA_KEYS_MAX, METADATA_VALUE_CHARS_MAX};
use crate::names::is_safe_name;

/// Keys the system sets itself after the boot.
pub const RESERVED: [&str; 5] = ["kernel_version", "vmm_version", "agent_version", "envd_version", "resumed_from"];

/// Valid labels given by a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Checks count, keys, values and reserved names.
    ///
    /// # Errors
    /// When there are too many labels, or a key or value is not allowed.
    pub fn parse(labels: BTreeMap<String, String>) -> Result<Self, Failure> {
        if labels.len() > METADATA_KEYS_MAX {
            return Err(Failure::invalid(format!("metadata may have at most {METADATA_KEYS_MAX} keys")));
        }
        for (key, value) in &labels {
            if !is_safe_name(key) {
                return Err(Failure::invalid(format!(
                    "metadata key {key:?}: use 1 to 64 letters, digits, dots, underscores and dashes, beginning with a letter or digit"
                )));
            }
            if RESERVED.contains(&key.as_str()) {
                return Err(Failure::invalid(format!("metadata key {key} is set by the system; choose another name")));
            }
            if value.chars().count() > METADATA_VALUE_CHARS_MAX {
                return Err(Failure::invalid(format!(
                    "metadata value of {key} is longer than {METADATA_VALUE_CHARS_MAX} characters"
                )));
            }
            if value.contains('\0') {
                return Err(Failure::invalid(format!("metadata value of {key} contains a NUL character")));
            }
        }
        Ok(Self(labels))
    }

    /// The labels.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, value: &str, ok: bool) {
        let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(Metadata::parse(labels).is_ok(), ok, "{key:?}={value:?}");
    }

    #[test]
    fn keys_and_values_keep_their_bounds() {
        check("a.b-c_D", "value", true);
        check("", "value", false);
        check("-a", "value", false);
        check("envd_version", "1", false);
        check("a", &"é".repeat(64), true);
        check("a", &"é".repeat(65), false);
        check("a", "x\0y", false);
        let many = (0..21).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(Metadata::parse(many).is_err());
    }
}
