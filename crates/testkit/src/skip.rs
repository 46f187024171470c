//! Tests that need something this machine may lack: a browser, a built guest, a network.
//!
//! Nothing is skipped in silence. A test that cannot run fails, unless `WRENN_TEST_SKIP` names what it needs or the test itself,
//! as comma-separated names or beginnings of names. What is skipped is written to standard error past libtest's capture and, when
//! `WRENN_TEST_SKIP_LOG` names a file, appended to that: whoever runs the suites prints it at their end.

use std::fmt::Display;
use std::io::Write;

/// Names what may be skipped.
pub const SKIP: &str = "WRENN_TEST_SKIP";
/// Names the file that skipped tests are appended to.
pub const SKIP_LOG: &str = "WRENN_TEST_SKIP_LOG";

/// Returns what a test needs, or `None` when the test is to be skipped because `WRENN_TEST_SKIP` allows it.
///
/// `need` names the thing ("envd", "browser"); `have` is the thing, or why it is missing and what to do about it.
///
/// # Panics
/// The thing is missing and `WRENN_TEST_SKIP` names neither it nor the running test: the test fails and says so.
#[track_caller]
pub fn require<T, E: Display>(need: &str, have: Result<T, E>) -> Option<T> {
    let why = match have {
        Ok(have) => return Some(have),
        Err(why) => why.to_string(),
    };
    // libtest runs each test on a thread of the test's name.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(is_allowed(need, test), "{}", refusal(need, &why));
    note(test, need, &why);
    None
}

/// Says whether `WRENN_TEST_SKIP` allows the test `test` to be skipped for lack of `need`.
pub fn is_allowed(need: &str, test: &str) -> bool {
    std::env::var(SKIP).is_ok_and(|list| names(&list, need) || names(&list, test))
}

/// Returns the text with which a test fails that lacks `need` and may not be skipped.
pub fn refusal(need: &str, why: &str) -> String {
    format!("this test needs {need}: {why}. {SKIP}={need} skips it, and says so")
}

/// Notes that a test was skipped, for the closing lines of the run.
pub fn note(test: &str, need: &str, why: &str) {
    let line = format!("SKIPPED {test}: it needs {need}: {why}\n");
    // Not eprint: libtest hides what a passing test prints that way. Without standard error there is nobody to be told.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os(SKIP_LOG) {
        let log = std::fs::File::options().append(true).create(true).open(&path);
        let noted = log.and_then(|mut log| log.write_all(line.as_bytes()));
        noted.unwrap_or_else(|error| panic!("{SKIP_LOG}={}: {error}", path.display()));
    }
}

fn names(list: &str, name: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| !entry.is_empty() && name.starts_with(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_its_beginning_allows_and_nothing_else_does() {
        for (list, name, expected) in [
            ("envd", "envd", true),
            ("browser, envd", "envd", true),
            ("sdk::", "sdk::the_client_works", true),
            ("", "envd", false),
            (",", "envd", false),
            ("nvd", "envd", false),
            ("envd-old", "envd", false),
        ] {
            assert_eq!(names(list, name), expected, "{list:?} {name}");
        }
    }

    #[test]
    fn what_is_there_is_handed_over() {
        assert_eq!(require("numbers", Ok::<_, String>(3)), Some(3));
    }

    #[test]
    #[should_panic(
        expected = "this test needs a thing nobody has: it was never made. WRENN_TEST_SKIP=a thing nobody has skips it"
    )]
    fn what_is_missing_fails_the_test() {
        require::<(), _>("a thing nobody has", Err("it was never made"));
    }
}
