//! Outside tools, where no kernel interface does the job: absolute path, argument list, no shell, a deadline, both streams in
//! the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// A tool did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{program} {outcome}: {printed}")]
pub struct ToolError {
    program: String,
    outcome: String,
    printed: String,
}

/// Runs a tool to its end and returns what it printed on standard output.
///
/// # Errors
/// It cannot be started, ends with another status than 0, or not within `wait`.
pub async fn run<A: AsRef<OsStr>>(program: &Path, args: &[A], wait: Duration) -> Result<Vec<u8>, ToolError> {
    let failed = |outcome: String, printed: &[u8]| ToolError {
        program: program.display().to_string(),
        outcome,
        printed: String::from_utf8_lossy(&printed[..printed.len().min(4096)]).trim().to_owned(),
    };
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).env_clear().kill_on_drop(true).current_dir("/");
    let output = match tokio::time::timeout(wait, command.output()).await {
        Err(_) => return Err(failed(format!("did not end within {} s", wait.as_secs()), b"")),
        Ok(Err(error)) => return Err(failed(format!("could not be started ({error})"), b"")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let both = [output.stdout, output.stderr].concat();
    Err(failed(output.status.to_string(), &both))
}
