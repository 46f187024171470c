//! Typed, prefixed ids. Public form: a prefix and 25 base-36 digits (0-9a-z) of a 128-bit value, zero padded.
//!
//! Parsing is strict: wrong prefix, length, digit, or a value above 2^128-1 is refused, never wrapped.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

const DIGITS: usize = 25;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id of this kind is {prefix} followed by 25 characters 0-9 a-z")]
pub struct InvalidId {
    prefix: &'static str,
}

fn encode(value: u128) -> [u8; DIGITS] {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut out = [b'0'; DIGITS];
    let mut rest = value;
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest % 36) as usize];
        rest /= 36;
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != DIGITS {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        value.checked_mul(36)?.checked_add(u128::from(digit))
    })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Text before the digits.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps a value drawn by the caller or read from the database.
            pub const fn from_uuid(value: Uuid) -> Self {
                Self(value)
            }

            /// The value as the database stores it.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::PREFIX)?;
                let digits = encode(self.0.as_u128());
                f.write_str(std::str::from_utf8(&digits).expect("base-36 digits are ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(Self::PREFIX)
                    .and_then(decode)
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or(InvalidId { prefix: Self::PREFIX })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A sandbox (capsule).
    SandboxId = "cl-";
    /// A team.
    TeamId = "team-";
    /// A user account.
    UserId = "usr-";
    /// An API key (not the secret).
    KeyId = "key-";
    /// A host.
    HostId = "host-";
    /// An audit row.
    AuditId = "log-";
    /// An event, the same in every delivery of it.
    EventId = "evt-";
    /// A notification channel.
    ChannelId = "ch-";
    /// A template build.
    BuildId = "bld-";
    /// A template.
    TemplateId = "tpl-";
    /// A snapshot, on its host and as the template it becomes.
    SnapshotId = "snap-";
    /// A fork: the making of all its children.
    ForkId = "fork-";
    /// A job at a host; the same value as that of the snapshot or fork it is for.
    JobId = "job-";
    /// A job outside the database: a mail, a call of a hook.
    OutboundJobId = "out-";
}

impl SnapshotId {
    /// The snapshot's name towards its host: 32 hex digits.
    pub fn host_name(self) -> String {
        self.0.simple().to_string()
    }

    /// The template the snapshot becomes.
    pub const fn template(self) -> TemplateId {
        TemplateId::from_uuid(self.0)
    }

    /// The job that captures or discards the snapshot.
    pub const fn job(self) -> JobId {
        JobId::from_uuid(self.0)
    }
}

impl TemplateId {
    /// The snapshot a template was made from, when it was made from one.
    pub const fn snapshot(self) -> SnapshotId {
        SnapshotId::from_uuid(self.0)
    }
}

impl ForkId {
    /// The job that makes the fork's children.
    pub const fn job(self) -> JobId {
        JobId::from_uuid(self.0)
    }
}

impl JobId {
    /// The snapshot of a job that captures or discards one.
    pub const fn snapshot(self) -> SnapshotId {
        SnapshotId::from_uuid(self.0)
    }

    /// The fork of a job that makes its children.
    pub const fn fork(self) -> ForkId {
        ForkId::from_uuid(self.0)
    }
}

/// The team that owns templates everybody can use.
pub const PLATFORM_TEAM: TeamId = TeamId::from_uuid(Uuid::nil());

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_survives_printing_and_parsing(value: u128) {
            let id = SandboxId::from_uuid(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse::<SandboxId>(), Ok(id));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = text.parse::<SandboxId>();
        }
    }

    #[test]
    fn values_above_128_bits_wrong_prefixes_and_odd_digits_are_refused() {
        for bad in [
            "cl-zzzzzzzzzzzzzzzzzzzzzzzzz",
            "cl-000000000000000000000000",
            "cl-00000000000000000000000000",
            "cl-00000000000000000000000A0",
            "team-0000000000000000000000000",
            "cl-../../../../../../../../a",
            "",
        ] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad} was accepted");
        }
        assert_eq!(
            "cl-f5lxx1zz5pnorynqglhzmsp33".parse::<SandboxId>().map(SandboxId::uuid),
            Ok(Uuid::from_u128(u128::MAX))
        );
    }
}
