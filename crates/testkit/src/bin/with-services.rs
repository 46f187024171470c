//! Runs a command with the test services up for all of it, then waits until they are gone:
//! `with-services cargo nextest run`. Its exit code is the command's.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use wrenn_testkit::services;

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else { bail!("usage: with-services COMMAND [ARGUMENT...]") };
    let running = services::join_or_start()?;
    let ended = Command::new(&program).args(words).status();
    services::stop_and_wait(running)?;
    let ended = ended.with_context(|| format!("cannot start {}", program.display()))?;
    Ok(ended.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
