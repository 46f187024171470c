//! What people type into account forms: e-mail addresses, names of people, teams and keys, passwords. Checked once, here.
//!
//! Owns: the rules of these texts. Must never: know how a password is hashed or a mail is sent.

use std::fmt;
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization;

use crate::failure::Failure;
use crate::limits::{
    EMAIL_BYTES_MAX, KEY_NAME_CHARS_MAX, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PERSON_NAME_CHARS_MAX,
    TEAM_NAME_CHARS_MAX,
};
use crate::text_type::text_type;

text_type!(
    /// E-mail address in lower case.
    Email
);
text_type!(
    /// Person's name: any script and ordinary punctuation, in normal form C.
    PersonName
);
text_type!(
    /// Name of a team: any script and ordinary punctuation, in normal form C.
    TeamName
);
text_type!(
    /// Name of an API key.
    KeyName
);

/// A password in the clear. Its Debug form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

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
        name(text, PERSON_NAME_CHARS_MAX).map(Self)
    }
}

impl FromStr for TeamName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        name(text, TEAM_NAME_CHARS_MAX).map(Self)
    }
}

/// A name as people write it, in normal form C, so that two ways to type one name are one name. Where it is shown it is escaped:
/// what is refused here is what could change how the text around it reads.
fn name(text: &str, chars_max: usize) -> Result<String, Failure> {
    let text: String = text.trim().nfc().collect();
    if within(&text, chars_max) && text.chars().any(char::is_alphanumeric) && text.chars().all(may_stand_in_names) {
        return Ok(text);
    }
    Err(Failure::invalid(format!(
        "name: use 1 to {chars_max} characters of any script, at least one of them a letter or digit; no control characters, \
         no line breaks, no < and >"
    )))
}

/// Letters, marks, digits, punctuation and symbols of any script. Not: control characters, blanks other than plain ones, invisible
/// format characters (bidi overrides and isolates, tags, joiners but the two that Indic and Persian spelling needs), private use,
/// noncharacters, and the two signs that begin and end markup.
fn may_stand_in_names(c: char) -> bool {
    const PLAIN_BLANKS: [char; 3] = [' ', '\u{a0}', '\u{3000}'];
    const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];
    let is_refused = c.is_control()
        || matches!(c, '<' | '>')
        || (c.is_whitespace() && !PLAIN_BLANKS.contains(&c))
        || (is_format(c) && !JOINERS.contains(&c))
        || matches!(u32::from(c), 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xf_0000..)
        || u32::from(c) & 0xfffe == 0xfffe;
    !is_refused
}

/// Characters of Unicode's general category Cf (format): invisible, and some of them turn the reading direction.
/// Source: UnicodeData.txt of Unicode 16.
fn is_format(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
        | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0x1_10bd | 0x1_10cd | 0x1_3430..=0x1_343f | 0x1_bca0..=0x1_bca3
        | 0x1_d173..=0x1_d17a | 0xe_0001..=0xe_007f)
}

impl TeamName {
    /// The name of a person's first team.
    pub fn of_person(name: &PersonName) -> Self {
        // A person's name is short enough, and what may stand in it may stand in a team's.
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
    fn names_of_any_script_with_ordinary_punctuation_are_taken_and_kept_in_one_form() {
        for good in [
            "काव्य शर्मा",
            "ก้อง",
            "D’Arcy",
            "レオ・カトウ",
            "Garcia, Ana",
            "R&D",
            "Acme, Inc.",
            "Ops/Infra",
            "QA (Berlin)",
            "C++",
            "می\u{200c}خواهم",
            "Ana \"Annie\" B.",
            "№ 7 #1: Team!",
            "ÅÄÖ—x",
        ] {
            assert_eq!(good.parse::<PersonName>().expect(good).as_str(), good);
            assert_eq!(good.parse::<TeamName>().expect(good).as_str(), good);
        }
        assert_eq!("Jose\u{301}".parse::<PersonName>().expect("decomposed").as_str(), "José");
    }

    #[test]
    fn names_that_could_change_how_the_text_around_them_reads_are_refused() {
        for bad in [
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{200f}b",
            "a\u{feff}b",
            "a\u{200b}b",
            "a\u{2028}b",
            "a\tb",
            "a\u{85}b",
            "a\u{1b}[1m",
            "a\u{e000}b",
            "a\u{fffe}b",
            "a\u{e0041}b",
            "a>b",
            "a\u{2003}b",
            "...",
            "&",
            "\u{301}",
        ] {
            assert!(bad.parse::<PersonName>().is_err(), "{bad:?}");
            assert!(bad.parse::<TeamName>().is_err(), "{bad:?}");
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
