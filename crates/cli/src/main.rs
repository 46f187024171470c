//! `wrenn`: the command line. Parses arguments, runs one command, turns its outcome into an exit code.
//!
//! Exit codes: 0 done, 1 the server or the machine said no (the message says what to do), 2 wrong usage,
//! and for `exec` whatever the command in the capsule returned, or 124 to 127 of the tool itself.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod api;
mod commands;
mod contexts;
mod dev;
mod output;
mod text;

use commands::Command;
use contexts::Settings;
use output::Output;

/// Run untrusted and AI-written code in microVMs on hosts you own.
#[derive(Debug, Parser)]
#[command(name = "wrenn", version, arg_required_else_help = true)]
struct Args {
    /// Control plane to talk to; that of the login in use, else http://127.0.0.1:8000 [env: WRENN_BASE_URL].
    #[arg(long, global = true, value_name = "URL")]
    base_url: Option<String>,

    /// Login to use, as `wrenn context list` names them.
    #[arg(long, global = true, env = "WRENN_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    /// API key, wrn_ and 32 hex characters. Prefer the environment: arguments are visible to other users [env: WRENN_API_KEY].
    #[arg(long, global = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let environment = dev::env_file::of_environment();
    dev::env_file::load();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = Output::new(args.json);
    if let Command::Completion { shell } = args.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "wrenn", &mut script);
        output::print(String::from_utf8_lossy(&script).trim_end());
        return done(0);
    }
    let is_exec = matches!(args.command, Command::Exec(_));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&anyhow::Error::new(error).context("could not start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    let connection = contexts::Contexts::load().and_then(|contexts| {
        let settings = settings(&args, environment);
        contexts.connection(args.context.as_deref(), settings.base_url, settings.api_key)
    });
    let outcome = match connection {
        Ok(connection) => runtime.block_on(commands::run(args.command, args.context, connection, &output)),
        Err(error) => Err(error),
    };
    // A blocked read of the terminal must not keep the process from ending.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => done(code),
        Err(error) => {
            output.failure(&error);
            // Apart from what the command in the capsule may have returned.
            if is_exec { ExitCode::from(commands::TOOL_FAILED) } else { ExitCode::FAILURE }
        }
    }
}

/// The exit code, unless a result was lost.
fn done(code: u8) -> ExitCode {
    if code == 0 && output::is_unprinted() { ExitCode::FAILURE } else { ExitCode::from(code) }
}

/// Where to and as whom: arguments and environment first, then the files of the working directory unless a login is named.
fn settings(args: &Args, (base_url, api_key): dev::env_file::ServerAndKey) -> Settings {
    let given = Settings::new(args.base_url.clone().or(base_url), args.api_key.clone().or(api_key));
    let files = dev::env_file::of_files().into_iter().filter(|_| args.context.is_none());
    let files = files.map(|(base_url, api_key)| Settings::of_file(base_url, api_key));
    contexts::from_one_source(std::iter::once(given).chain(files))
}

/// Help, or what is wrong with the arguments: as JSON when that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if !error.use_stderr() {
        output::print(error.render().to_string().trim_end());
        return done(0);
    }
    if json {
        Output::new(true).usage(error.render().to_string().trim().trim_start_matches("error: "));
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Args::command().debug_assert();
    }

    /// What every command says of itself, with its subcommands.
    fn help_of(command: &mut clap::Command, path: &str, text: &mut String) {
        text.push_str(&format!("\n==== {path}\n{}", command.render_long_help()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name());
            help_of(below, &path, text);
        }
    }

    #[test]
    fn the_help_of_every_command_is_as_it_was_read_last() {
        let (mut command, mut text) = (Args::command().term_width(100), String::new());
        command.build();
        help_of(&mut command, "wrenn", &mut text);
        // Values of this environment are not for the snapshot.
        let text: Vec<String> = text.lines().map(|line| without_values(line.trim_end())).collect();
        insta::assert_snapshot!("help", text.join("\n"));
    }

    fn without_values(line: &str) -> String {
        match line.find("[env: ").and_then(|at| Some((at, line[at..].find('=')?, line[at..].find(']')?))) {
            Some((at, equals, end)) if equals < end => format!("{}{}", &line[..at + equals], &line[at + end..]),
            _ => line.to_owned(),
        }
    }

    #[test]
    fn completion_is_made_for_every_shell() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "wrenn", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("wrenn"), "{shell}");
        }
    }

    #[test]
    fn wrong_counts_ids_and_names_are_refused_before_anything_is_sent() {
        let id = "cl-0000000000000000000000000";
        for bad in [
            vec!["wrenn", "capsule", "pause"],
            vec!["wrenn", "capsule", "pause", "x"],
            vec!["wrenn", "capsule", "fork", id, "--count", "0"],
            vec!["wrenn", "capsule", "fork", id, "--count", "101"],
            vec!["wrenn", "capsule", "snapshot", id, "../x"],
            vec!["wrenn", "template", "rm", "a/b"],
            vec!["wrenn", "template", "list", "--type", "other"],
        ] {
            assert!(Args::try_parse_from(&bad).is_err(), "{bad:?} was accepted");
        }
        for good in [
            vec!["wrenn", "capsule", "pause", id, id, "--no-wait"],
            vec!["wrenn", "capsule", "resume", id, "--timeout", "0"],
            vec!["wrenn", "capsule", "fork", id, "-n", "100"],
            vec!["wrenn", "capsule", "snapshot", id, "mine"],
            vec!["wrenn", "template", "list", "--type", "snapshot"],
        ] {
            assert!(Args::try_parse_from(&good).is_ok(), "{good:?} was refused");
        }
    }
}
