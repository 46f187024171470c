//! A command to be run in a sandbox: its bounds and what its parts may hold. Whoever holds one need not check it again.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::limits::{EXEC_ARG_BYTES_MAX, EXEC_ARGS_MAX, EXEC_ENVS_MAX, GUEST_PATH_BYTES_MAX};

/// A valid command. Without arguments `cmd` is a line for the shell; without `cmd` (terminals only) it is the user's own shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    /// None: the user's home.
    pub cwd: Option<String>,
    /// None: the template's user.
    pub user: Option<String>,
}

impl Command {
    /// Parses a command that names something to run.
    ///
    /// # Errors
    /// When `cmd` is empty, a bound is passed, or a part holds what it cannot.
    pub fn parse(
        cmd: String,
        args: Vec<String>,
        envs: BTreeMap<String, String>,
        cwd: Option<String>,
        user: Option<String>,
    ) -> Result<Self, Failure> {
        if cmd.is_empty() {
            return Err(Failure::invalid("cmd is required"));
        }
        Self { cmd, args, envs, cwd, user }.bounded()
    }

    /// Parses the command of a terminal, which is the user's own shell when `cmd` is absent or empty.
    ///
    /// # Errors
    /// When there are arguments without `cmd`, a bound is passed, or a part holds what it cannot.
    pub fn parse_for_terminal(
        cmd: Option<String>,
        args: Vec<String>,
        envs: BTreeMap<String, String>,
        cwd: Option<String>,
        user: Option<String>,
    ) -> Result<Self, Failure> {
        let cmd = cmd.unwrap_or_default();
        if cmd.is_empty() && !args.is_empty() {
            return Err(Failure::invalid("args without a cmd"));
        }
        Self { cmd, args, envs, cwd, user }.bounded()
    }

    fn bounded(self) -> Result<Self, Failure> {
        let Self { cmd, args, envs, cwd, user } = self;
        if args.len() > EXEC_ARGS_MAX {
            return Err(Failure::invalid(format!("at most {EXEC_ARGS_MAX} args are taken")));
        }
        if envs.len() > EXEC_ENVS_MAX {
            return Err(Failure::invalid(format!("at most {EXEC_ENVS_MAX} envs are taken")));
        }
        let texts = args.iter().chain(envs.values()).chain(envs.keys()).chain([&cmd]);
        for text in texts.chain(cwd.iter()).chain(user.iter()) {
            if text.len() >= EXEC_ARG_BYTES_MAX {
                return Err(Failure::invalid(format!("cmd, args and envs are below {EXEC_ARG_BYTES_MAX} bytes each")));
            }
            if text.contains('\0') {
                return Err(Failure::invalid("cmd, args, envs, cwd and user contain no NUL character"));
            }
        }
        if let Some(bad) = envs.keys().find(|key| key.is_empty() || key.contains('=')) {
            return Err(Failure::invalid(format!("{bad:?} is no name of an environment variable")));
        }
        if cwd.as_ref().is_some_and(|path| path.len() > GUEST_PATH_BYTES_MAX) {
            return Err(Failure::invalid(format!("cwd is longer than {GUEST_PATH_BYTES_MAX} bytes")));
        }
        let some = |text: &String| !text.is_empty();
        Ok(Self { cmd, args, envs, cwd: cwd.filter(some), user: user.filter(some) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cmd: &str, args: Vec<String>, envs: &[(&str, &str)]) -> String {
        let envs = envs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Command::parse(cmd.to_owned(), args, envs, None, None).expect_err("accepted").message
    }

    #[test]
    fn a_command_keeps_its_bounds() {
        assert!(refused("", vec![], &[]).contains("required"));
        assert!(refused("a", vec![String::new(); EXEC_ARGS_MAX + 1], &[]).contains("args"));
        assert!(refused("a", vec!["x".repeat(EXEC_ARG_BYTES_MAX)], &[]).contains("bytes"));
        assert!(refused("a\0b", vec![], &[]).contains("NUL"));
        assert!(refused("a", vec![], &[("A=B", "c")]).contains("environment"));
        assert!(refused("a", vec![], &[("", "c")]).contains("environment"));
    }

    #[test]
    fn a_terminal_needs_no_command_but_takes_no_arguments_without_one() {
        let parse = |cmd: Option<&str>, args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            Command::parse_for_terminal(cmd.map(str::to_owned), args, BTreeMap::new(), Some(String::new()), None)
        };
        let shell = parse(None, &[]).expect("the user's own shell");
        assert_eq!((shell.cmd.as_str(), shell.cwd), ("", None));
        assert_eq!(parse(Some(""), &[]), parse(None, &[]));
        assert!(parse(Some(""), &["a"]).is_err() && parse(Some("ls"), &["a"]).is_ok());
    }
}
