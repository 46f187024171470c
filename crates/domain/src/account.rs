//! What people type into account forms: e-mail addresses, names of people, teams and keys, passwords. Checked once, here.
//!
//! Owns: the rules of these texts. Must never: know how a password is hashed or a mail is sent.

use std::fmt;
use std::str::FromStr;

use crate::failure::Failure;
use crate::limits::{
    EMAIL_BYTES_MAX, KEY_NAME_CHARS_MAX, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PERSON_NAME_CHARS_MAX,
    TEAM_NAME_CHARS_MAX,
};

/// An e-mail address in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

/// What a person is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonName(String);

/// What a team is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamName(String);

/// What an API key is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName(String);

/// A password in the clear. Its Debug form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

as_text!(Email, PersonName, TeamName, KeyName);

impl FromStr for Email {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let text = text.trim().to_ascii_lowercase();
        if text.len() <= EMAIL_BYTES_MAX && is_email(&text) {
            return Ok(Self(text));
        }
        Err(Failure::invalid("email: send an address such as name@example.com"))
    }
}

/// `local@domain.tld`: letters, digits and `._%+-` before the @, letters, digits, dots and dashes after it, and a last part
/// of at least two letters. Quoted and international forms are refused: they are rare, and every mail header built from
/// one would need its own care.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let Some((host, last)) = domain.rsplit_once('.') else { return false };
    let local_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'%' | b'+' | b'-');
    let labels_ok = host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    !local.is_empty()
        && local.len() <= 64
        && local.bytes().all(local_ok)
        && labels_ok
        && last.len() >= 2
        && last.bytes().all(|b| b.is_ascii_alphabetic())
}

impl FromStr for PersonName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '\'');
        let text = text.trim();
        if within(text, PERSON_NAME_CHARS_MAX) && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::invalid(format!(
            "name: use 1 to {PERSON_NAME_CHARS_MAX} letters, digits, spaces, dots, underscores, dashes and apostrophes"
        )))
    }
}

impl FromStr for TeamName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '\'' | '@');
        let text = text.trim();
        if within(text, TEAM_NAME_CHARS_MAX) && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::invalid(format!(
            "name: use 1 to {TEAM_NAME_CHARS_MAX} letters, digits, spaces and the signs . _ - @ '"
        )))
    }
}

impl TeamName {
    /// The name of a person's first team.
    pub fn of_person(name: &PersonName) -> Self {
        // A person's name is short enough and made of signs a team's may have.
        Self(format!("{name}'s Team"))
    }
}

impl FromStr for KeyName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if within(text, KEY_NAME_CHARS_MAX) && !text.chars().any(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::invalid(format!("name: use 1 to {KEY_NAME_CHARS_MAX} characters, no control characters")))
    }
}

fn within(text: &str, chars_max: usize) -> bool {
    !text.is_empty() && text.chars().count() <= chars_max
}

impl FromStr for Password {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if text.chars().count() < PASSWORD_CHARS_MIN {
            return Err(Failure::invalid(format!("password: use at least {PASSWORD_CHARS_MIN} characters")));
        }
        if text.len() > PASSWORD_BYTES_MAX {
            return Err(Failure::invalid(format!("password: use at most {PASSWORD_BYTES_MAX} bytes")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Password {
    /// The text, to be hashed and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_that_could_leave_their_mail_header_are_refused() {
        for bad in [
            "",
            "@",
            "a@",
            "@b.io",
            "a@b",
            "a@b.c",
            "a b@c.io",
            "a@b..io",
            "a@-b.io",
            "a@b-.io",
            "a@b.io\r\nBcc: x@y.io",
            "a\0@b.io",
            "\"a b\"@c.io",
            "a@b@c.io",
            "ü@b.io",
            "a@b.i0",
            &format!("{}@b.io", "a".repeat(65)),
            &format!("a@{}.io", "b".repeat(254)),
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?} was accepted");
        }
        for (given, kept) in [(" A.b+c@Ex-ample.co.UK ", "a.b+c@ex-ample.co.uk"), ("x@y.io", "x@y.io")] {
            assert_eq!(given.parse::<Email>().expect("valid").as_str(), kept);
        }
    }

    #[test]
    fn names_keep_their_bounds_and_signs() {
        for bad in ["", "  ", "a\nb", "a\0", "<b>", &"x".repeat(101)] {
            assert!(bad.parse::<PersonName>().is_err(), "{bad:?}");
        }
        for good in ["Ann", "Jörg O'Neil-Müller", "李 雷", &"x".repeat(100)] {
            let name = good.parse::<PersonName>().expect(good);
            assert!(TeamName::of_person(&name).as_str().parse::<TeamName>().is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a<b", &"x".repeat(129)] {
            assert!(bad.parse::<TeamName>().is_err(), "{bad:?}");
        }
        for bad in ["", "a\u{7f}", &"x".repeat(129)] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_counted_in_characters_and_hidden() {
        assert!("1234567".parse::<Password>().is_err());
        assert!("pässwörd😀".parse::<Password>().is_ok());
        assert!("x".repeat(1024).parse::<Password>().is_ok());
        assert!("x".repeat(1025).parse::<Password>().is_err());
        assert_eq!(format!("{:?}", "hunter2222".parse::<Password>()), "Ok(Password(...))");
    }

    proptest! {
        #[test]
        fn an_accepted_address_is_printable_ascii_with_one_at(text in "\\PC{0,300}") {
            if let Ok(email) = text.parse::<Email>() {
                prop_assert!(email.as_str().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert_eq!(email.as_str().matches('@').count(), 1);
            }
        }
    }
}
