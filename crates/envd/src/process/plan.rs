//! From what a caller asked for to what the kernel is told: program, arguments, environment, directory.
//!
//! Pure: nothing here looks at the file system, so a missing program or directory is found out by the child, with the
//! rights of its user.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use wrenn_contract::proto::process::ProcessConfig;
use wrenn_domain::limits::{EXEC_ARG_BYTES_MAX, EXEC_ARGS_MAX, EXEC_ENVS_MAX, GUEST_PATH_BYTES_MAX};
use wrenn_linux::spawn::Credentials;
use wrenn_linux::users::User;

use crate::identity::Defaults;

/// Where programs are looked for when nobody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Kind of terminal when nobody says otherwise: one that every terminal program knows.
const TERM: &str = "xterm-256color";
/// Shells that only say that nobody may log in. Whoever may call envd may run commands as any user all the same.
const NO_SHELLS: [&str; 2] = ["nologin", "false"];
const SHELL: &str = "/bin/sh";

/// Everything the kernel must know to start a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Paths to try in order.
    pub programs: Vec<CString>,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub directory: CString,
    /// The directory is a home nobody asked for; `/` will do where it is not there.
    pub or_root: bool,
    pub user: Credentials,
    /// The program as the caller knows it, for errors.
    pub program_name: String,
}

/// The request makes no sense; the text says why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

impl Plan {
    /// `terminal`: the program will have one.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn new(config: &ProcessConfig, user: &User, defaults: &Defaults, terminal: bool) -> Result<Self, PlanError> {
        check_sizes(config)?;
        let shell = shell_of(user);
        let env = environment(config, user, defaults, &shell, terminal)?;
        let (directory, or_root) = directory(config, user, defaults)?;
        let (program, args) = command(config, user, &shell)?;
        let path = env.get("PATH").map_or(PATH, String::as_str);
        Ok(Self {
            programs: candidates(&program, path)?,
            args: args.into_iter().map(|arg| c_string(arg, "an argument")).collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| c_string(format!("{name}={value}"), "a variable"))
                .collect::<Result<_, _>>()?,
            directory: c_string(directory, "the working directory")?,
            or_root,
            user: Credentials { uid: user.uid, gid: user.gid, groups: user.groups.clone() },
            program_name: program,
        })
    }
}

fn check_sizes(config: &ProcessConfig) -> Result<(), PlanError> {
    if config.args.len() > EXEC_ARGS_MAX {
        return Err(PlanError(format!("more than {EXEC_ARGS_MAX} arguments")));
    }
    if config.envs.len() > EXEC_ENVS_MAX {
        return Err(PlanError(format!("more than {EXEC_ENVS_MAX} environment variables")));
    }
    let values = config.envs.iter().flat_map(|(name, value)| [name, value]);
    if config.args.iter().chain([&config.cmd]).chain(values).any(|text| text.len() >= EXEC_ARG_BYTES_MAX) {
        return Err(PlanError(format!("an argument or variable is longer than {EXEC_ARG_BYTES_MAX} bytes")));
    }
    if config.cwd.as_ref().is_some_and(|cwd| cwd.len() >= GUEST_PATH_BYTES_MAX) {
        return Err(PlanError(format!("the working directory is longer than {GUEST_PATH_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn shell_of(user: &User) -> String {
    let name = user.shell.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if NO_SHELLS.contains(&name.as_ref()) {
        return SHELL.to_owned();
    }
    user.shell.to_string_lossy().into_owned()
}

/// The program and its arguments, the program's own name first.
fn command(config: &ProcessConfig, user: &User, shell: &str) -> Result<(String, Vec<String>), PlanError> {
    if config.cmd.is_empty() {
        if !config.args.is_empty() {
            return Err(PlanError("arguments without a command".to_owned()));
        }
        // The dash in front tells a shell that it is the user's first one: it reads the profile.
        let name = Path::new(shell).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        return Ok((shell.to_owned(), vec![format!("-{name}")]));
    }
    if config.args.is_empty() {
        return Ok((shell.to_owned(), vec![shell.to_owned(), "-c".to_owned(), config.cmd.clone()]));
    }
    // Arguments are the caller's words: only a shell knows which tilde means a home.
    let program = in_home(&config.cmd, user, "the command")?;
    let args = std::iter::once(program.clone()).chain(config.args.iter().cloned()).collect();
    Ok((program, args))
}

/// Working directory, and whether `/` will do instead.
fn directory(config: &ProcessConfig, user: &User, defaults: &Defaults) -> Result<(String, bool), PlanError> {
    let asked = config.cwd.as_deref().filter(|cwd| !cwd.is_empty());
    // The default one belongs to the default user: others may not even enter it.
    let own = defaults.workdir.as_deref().filter(|_| user.name == defaults.user);
    let Some(asked) = asked.or(own) else {
        return Ok((user.home.to_string_lossy().into_owned(), true));
    };
    let asked = in_home(asked, user, "the working directory")?;
    Ok((user.home.join(asked).to_string_lossy().into_owned(), false))
}

/// `~` and `~/...` are the user's home.
fn in_home(text: &str, user: &User, what: &str) -> Result<String, PlanError> {
    let Some(rest) = text.strip_prefix('~') else { return Ok(text.to_owned()) };
    if !rest.is_empty() && !rest.starts_with('/') {
        return Err(PlanError(format!("{what} names another user's home: {text}")));
    }
    Ok(format!("{}{rest}", user.home.display()))
}

fn environment(
    config: &ProcessConfig,
    user: &User,
    defaults: &Defaults,
    shell: &str,
    terminal: bool,
) -> Result<BTreeMap<String, String>, PlanError> {
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| PATH.to_owned());
    let home = user.home.to_string_lossy().into_owned();
    let own = [("PATH", path), ("HOME", home), ("USER", user.name.clone()), ("LOGNAME", user.name.clone())];
    let own = own.into_iter().chain([("SHELL", shell.to_owned())]);
    let term = terminal.then(|| ("TERM", TERM.to_owned()));
    let mut env: BTreeMap<String, String> = own.chain(term).map(|(name, value)| (name.to_owned(), value)).collect();
    let given = config.envs.iter().chain(&defaults.env);
    if let Some((name, _)) = given.clone().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(PlanError(format!("not a name of a variable: {name:?}")));
    }
    env.extend(defaults.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.extend(config.envs.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(env)
}

/// Where the program may be: itself when it is a path, else its name in every directory of `path`.
fn candidates(program: &str, path: &str) -> Result<Vec<CString>, PlanError> {
    if program.contains('/') {
        return Ok(vec![c_string(program.to_owned(), "the command")?]);
    }
    // An empty entry means the current directory to old shells; nobody wants that.
    let dirs = path.split(':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| c_string(Path::new(dir).join(program).as_os_str().as_bytes().to_vec(), "the command")).collect()
}

fn c_string(text: impl Into<Vec<u8>>, what: &str) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError(format!("{what} contains a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> User {
        let (home, shell) = ("/home/me".into(), "/bin/bash".into());
        User { name: "me".to_owned(), uid: 1000, gid: 100, home, shell, groups: vec![100, 27] }
    }

    fn config(cmd: &str, args: &[&str]) -> ProcessConfig {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        ProcessConfig { cmd: cmd.to_owned(), args, ..Default::default() }
    }

    fn plan(config: &ProcessConfig) -> Result<Plan, PlanError> {
        let env = BTreeMap::from([("WRENN_SANDBOX".to_owned(), "true".to_owned())]);
        let defaults = Defaults { user: "me".to_owned(), workdir: None, env };
        Plan::new(config, &me(), &defaults, false)
    }

    fn texts(list: &[CString]) -> Vec<&str> {
        list.iter().map(|text| text.to_str().unwrap()).collect()
    }

    #[test]
    fn a_command_with_arguments_is_that_command_and_a_lone_one_is_a_line_for_the_shell() {
        for (cmd, args, expected) in [
            ("ls", &["-l", "~", "~/x", "~you", "a~"][..], &["ls", "-l", "~", "~/x", "~you", "a~"][..]),
            ("~/bin/x", &["y"], &["/home/me/bin/x", "y"]),
            ("a | b", &[], &["/bin/bash", "-c", "a | b"]),
            ("~/x", &[], &["/bin/bash", "-c", "~/x"]),
            ("", &[], &["-bash"]),
        ] {
            assert_eq!(texts(&plan(&config(cmd, args)).unwrap().args), expected, "{cmd}");
        }
    }

    #[test]
    fn a_name_is_looked_for_along_the_childs_own_path_and_a_path_is_not() {
        let mut config = config("tool", &["x"]);
        config.envs.insert("PATH".to_owned(), "/a::/b/".to_owned());
        assert_eq!(texts(&plan(&config).unwrap().programs), ["/a/tool", "/b/tool"]);
        config.cmd = "./tool".to_owned();
        assert_eq!(texts(&plan(&config).unwrap().programs), ["./tool"]);
    }

    #[test]
    fn directories_are_below_the_home_unless_they_say_otherwise() {
        for (cwd, expected) in [
            (None, ("/home/me", true)),
            (Some(""), ("/home/me", true)),
            (Some("/x"), ("/x", false)),
            (Some("x/y"), ("/home/me/x/y", false)),
            (Some("~/x"), ("/home/me/x", false)),
            (Some("~"), ("/home/me", false)),
        ] {
            let config = ProcessConfig { cwd: cwd.map(str::to_owned), ..config("ls", &["x"]) };
            let plan = plan(&config).unwrap();
            assert_eq!((plan.directory.to_str().unwrap(), plan.or_root), expected, "{cwd:?}");
        }
    }

    #[test]
    fn the_environment_is_made_new_and_later_wishes_win() {
        let mut config = config("ls", &["x"]);
        config.envs.insert("HOME".to_owned(), "/elsewhere".to_owned());
        let plan = plan(&config).unwrap();
        let mut env = texts(&plan.env);
        env.retain(|line| !line.starts_with("PATH="));
        assert_eq!(env, ["HOME=/elsewhere", "LOGNAME=me", "SHELL=/bin/bash", "USER=me", "WRENN_SANDBOX=true"]);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let bad_env = |name: &str, value: &str| {
            let mut config = config("ls", &["x"]);
            config.envs.insert(name.to_owned(), value.to_owned());
            config
        };
        for (config, says) in [
            (config("", &["x"]), "without a command"),
            (config("a\0b", &["x"]), "zero byte"),
            (config("a\0b", &[]), "zero byte"),
            (config("ls", &["a\0b"]), "zero byte"),
            (config("~you/x", &["x"]), "another user's home"),
            (config("ls", &["x"; EXEC_ARGS_MAX + 1]), "arguments"),
            (config("ls", &[&"x".repeat(EXEC_ARG_BYTES_MAX)]), "longer"),
            (ProcessConfig { cwd: Some("~you".to_owned()), ..config("ls", &["x"]) }, "another user's home"),
            (ProcessConfig { cwd: Some("a\0".to_owned()), ..config("ls", &["x"]) }, "zero byte"),
            (ProcessConfig { cwd: Some("a".repeat(GUEST_PATH_BYTES_MAX)), ..config("ls", &["x"]) }, "longer"),
            (bad_env("", "x"), "name of a variable"),
            (bad_env("a=b", "x"), "name of a variable"),
            (bad_env("a", "\0"), "zero byte"),
        ] {
            let error = plan(&config).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_user_who_may_not_log_in_has_a_shell_all_the_same() {
        for shell in ["/usr/sbin/nologin", "/bin/false"] {
            let user = User { shell: shell.into(), ..me() };
            let plan = Plan::new(&config("id", &[]), &user, &Defaults::default(), true).unwrap();
            assert_eq!(texts(&plan.args), ["/bin/sh", "-c", "id"]);
            assert!(texts(&plan.env).contains(&"TERM=xterm-256color"));
        }
    }
}
