//! `wrenn`: the command line. Parses arguments, runs one command, turns its outcome into an exit code.
//!
//! Exit codes: 0 done, 1 the server or the machine said no (the message says what to do), 2 wrong usage,
//! and for `exec` whatever the command in the capsule returned.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod api;
mod commands;
mod contexts;
mod dev;
mod output;

use commands::Command;
use output::Output;

/// Run untrusted and AI-written code in microVMs on hosts you own.
#[derive(Debug, Parser)]
#[command(name = "wrenn", version, arg_required_else_help = true)]
struct Args {
    /// Control plane to talk to; that of the login in use, else http://127.0.0.1:8000.
    #[arg(long, global = true, env = "WRENN_BASE_URL", value_name = "URL")]
    base_url: Option<String>,

    /// Login to use, as `wrenn context list` names them.
    #[arg(long, global = true, env = "WRENN_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    /// API key, wrn_ and 32 hex characters. Prefer the environment: arguments are visible to other users.
    #[arg(long, global = true, env = "WRENN_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    dev::env_file::load_client_defaults();
    let args = Args::parse();
    let output = Output::new(args.json);
    if let Command::Completion { shell } = args.command {
        clap_complete::generate(shell, &mut Args::command(), "wrenn", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&anyhow::Error::new(error).context("could not start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    let connection = contexts::Contexts::load()
        .and_then(|contexts| contexts.connection(args.context.as_deref(), args.base_url, args.api_key));
    let outcome = match connection {
        Ok(connection) => runtime.block_on(commands::run(args.command, args.context, connection, &output)),
        Err(error) => Err(error),
    };
    // A blocked read of the terminal must not keep the process from ending.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.failure(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Args::command().debug_assert();
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
