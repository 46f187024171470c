//! Exit codes of commands that run something in a capsule, apart from those of what they run.

/// The user gave up, as shells report SIGINT.
pub const INTERRUPTED: u8 = 130;
/// The time-out of `--timeout` passed, as `timeout` reports it.
pub const TIMED_OUT: u8 = 124;
/// The tool or the server failed.
pub const TOOL_FAILED: u8 = 125;
/// The program may not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
pub const NOT_FOUND: u8 = 127;

/// Exit code for a program that could not be started, by the guest's own words.
pub fn start_code(text: &str) -> u8 {
    if text.contains("the program ") && text.contains(" was not found") {
        NOT_FOUND
    } else if text.contains(" may not execute ") {
        NOT_EXECUTABLE
    } else {
        TOOL_FAILED
    }
}

/// A process's status as a shell would report it.
pub fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_started_has_the_exit_codes_shells_know() {
        assert_eq!(start_code("the program \"nope\" was not found"), 127);
        assert_eq!(start_code("user \"wrenn-user\" may not execute \"/etc/passwd\""), 126);
        assert_eq!(start_code("the working directory \"/x\" does not exist"), 125);
        assert_eq!(start_code("there is no user \"x\""), 125);
    }
}
