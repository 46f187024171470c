//! Code in a VM: what `wrenn exec` promises.

use anyhow::ensure;
use wrenn_vmtest::Stack;

use crate::Case;

pub const CASES: &[Case] = &[
    ("running::a_command_prints_both_streams_and_ends_with_its_code", streams_and_code),
    ("running::input_and_output_pass_byte_for_byte", bytes_survive),
    ("running::a_command_runs_as_the_default_user_in_its_home_and_may_use_sudo", default_user),
    ("running::what_cannot_run_is_a_clear_error", clear_errors),
    ("running::a_background_process_is_listed_and_killed", background),
];

fn streams_and_code(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let answer = stack.wrenn(&["exec", &id, "--", "sh", "-c", "echo out; echo err >&2; exit 42"])?;
    ensure!(answer.code == Some(42) && answer.text() == "out" && answer.stderr == "err\n", "{answer:?}");
    let killed = stack.wrenn(&["exec", &id, "--", "sh", "-c", "kill -9 $$"])?;
    ensure!(killed.code == Some(137), "{killed:?}");
    let json = stack.wrenn(&["--json", "exec", &id, "--", "printf", "hi"])?.ok()?.json()?;
    ensure!(json["stdout"] == "hi" && json["exit_code"] == 0, "{json}");
    stack.remove(&id)
}

fn bytes_survive(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1_000_003).collect();
    let answer = stack.wrenn_with(&["exec", &id, "--", "cat"], &bytes, &[])?.ok()?;
    ensure!(answer.stdout == bytes, "{} of {} bytes came back", answer.stdout.len(), bytes.len());
    stack.remove(&id)
}

fn default_user(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let who = stack.exec(&id, &["sh", "-c", "id -un; id -u; pwd; sudo -n id -u; echo $WRENN_SANDBOX_ID"])?;
    ensure!(who == format!("wrenn-user\n1000\n/home/wrenn-user\n0\n{id}"), "{who}");
    let given = stack.wrenn(&[
        "exec",
        "-u",
        "root",
        "-w",
        "/tmp",
        "-e",
        "A=b c",
        &id,
        "--",
        "sh",
        "-c",
        "id -un; pwd; echo \"$A\"",
    ])?;
    ensure!(given.ok()?.text() == "root\n/tmp\nb c");
    for tool in ["git", "socat", "chronyd", "tini", "wget", "curl", "ip"] {
        stack.exec(&id, &["sh", "-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {tool}")])?;
    }
    stack.remove(&id)
}

fn clear_errors(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let missing = stack.wrenn(&["exec", &id, "--", "/no/such/program"])?;
    ensure!(missing.code.is_some_and(|c| c != 0) && !missing.stderr.is_empty(), "{missing:?}");
    let cwd = stack.wrenn(&["exec", "-w", "/no/such/dir", &id, "--", "true"])?;
    ensure!(cwd.code == Some(125) && cwd.stderr.contains("/no/such/dir"), "{cwd:?}");
    let user = stack.wrenn(&["exec", "-u", "nobody-at-all", &id, "--", "true"])?;
    ensure!(user.code == Some(125) && user.stderr.contains("nobody-at-all"), "{user:?}");
    stack.remove(&id)?;
    let gone = stack.wrenn(&["exec", &id, "--", "true"])?;
    ensure!(gone.code == Some(125), "{gone:?}");
    let unknown = stack.wrenn(&["exec", "cl-0000000000000000000000001", "--", "true"])?;
    ensure!(unknown.code == Some(125), "{unknown:?}");
    let malformed = stack.wrenn(&["exec", "cl-../x", "--", "true"])?;
    ensure!(malformed.code == Some(2), "{malformed:?}");
    let key =
        stack.wrenn_with(&["capsule", "list"], b"", &[("WRENN_API_KEY", "wrn_00000000000000000000000000000000")])?;
    ensure!(key.code == Some(1) && key.stderr.to_lowercase().contains("key"), "{key:?}");
    Ok(())
}

fn background(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let started = stack.wrenn(&["--json", "exec", "-d", &id, "--", "sleep", "1000"])?.ok()?.json()?;
    ensure!(started["pid"].as_u64().is_some_and(|pid| pid > 0), "{started}");
    let running = stack.exec(&id, &["sh", "-c", "cat /proc/[0-9]*/comm | grep -cx sleep"])?;
    ensure!(running == "1", "{running}");
    stack.remove(&id)
}
