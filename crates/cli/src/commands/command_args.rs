//! Arguments of commands that run something in a capsule: `exec` and `shell` share them.

use std::collections::BTreeMap;

use clap::Args;

#[derive(Debug, Args)]
pub struct CommandArgs {
    /// Environment variable, KEY=VALUE, or KEY alone for the value it has here; may be repeated.
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Working directory; the user's home when absent.
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// Guest user; the template's default user when absent.
    #[arg(long, short = 'u', value_name = "NAME")]
    pub user: Option<String>,
}

impl CommandArgs {
    /// The variables with their values. One that is not set here, or is no text, is left out.
    pub fn envs(&self) -> BTreeMap<String, String> {
        let value = |(name, value): &(String, Option<String>)| {
            Some((name.clone(), value.clone().or_else(|| std::env::var(name).ok())?))
        };
        self.env.iter().filter_map(value).collect()
    }
}

fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("a variable is KEY=VALUE or KEY".to_owned());
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_its_value_or_the_one_of_this_environment() {
        let parsed = |text: &str| variable(text).unwrap();
        let env = ["A=b=c", "EMPTY=", "PATH", "WRENN_TEST_NOT_SET_ANYWHERE"].map(parsed).to_vec();
        let envs = CommandArgs { env, workdir: None, user: None }.envs();
        assert_eq!(envs.get("A").map(String::as_str), Some("b=c"));
        assert_eq!(envs.get("EMPTY").map(String::as_str), Some(""));
        assert_eq!(envs.get("PATH"), std::env::var("PATH").ok().as_ref());
        assert_eq!(envs.len(), 3);
        assert!(variable("=x").is_err() && variable("").is_err());
    }
}
