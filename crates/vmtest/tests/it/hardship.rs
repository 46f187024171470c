//! Bad days of a host: its disk is full, it is shared, a network does not come apart, its agent does not answer.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use wrenn_vmtest::{HostState, Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("hardship::a_full_disk_refuses_new_capsules_and_harms_no_running_one", full_disk),
    ("hardship::two_hosts_on_one_machine_do_not_touch_each_other", two_stacks),
    ("hardship::a_network_that_does_not_come_apart_is_set_aside_and_tried_again", quarantine),
    ("hardship::an_agent_that_does_not_answer_makes_clear_errors_and_loses_nothing", stopped_agent),
    ("hardship::the_foreground_ends_with_ctrl_c_and_leaves_nothing", foreground),
];

const WAIT: Duration = Duration::from_secs(90);

fn full_disk(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let filler = stack.store().join("filler");
    let fill = || -> anyhow::Result<()> {
        let file = std::fs::File::create(&filler)?;
        let room = nix::sys::statvfs::fstatvfs(&file)?;
        // What is left is below the reserve of 2 GiB and above that of a pause.
        let bytes = room.blocks_available() * room.fragment_size() - (1 << 30);
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, i64::try_from(bytes)?)?;
        Ok(())
    };
    let tried = fill().and_then(|()| {
        let refused = stack.wrenn(&["capsule", "create"])?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("no room left"), "{refused:?}");
        // The one that runs can write, be paused and come back.
        stack.exec(&id, &["sh", "-c", "head -c 20000000 /dev/urandom > data && sync"])?;
        stack.wrenn(&["capsule", "pause", &id])?.ok()?;
        stack.wrenn(&["capsule", "resume", &id])?.ok()?;
        ensure!(stack.exec(&id, &["sh", "-c", "wc -c < data"])?.trim() == "20000000");
        Ok(())
    });
    std::fs::remove_file(&filler)?;
    tried?;
    let next = stack.capsule(&[])?;
    stack.remove(&next)?;
    stack.remove(&id)
}

fn two_stacks(stack: &Stack) -> anyhow::Result<()> {
    let other = Stack::up(stack.builds())?;
    let tried = || -> anyhow::Result<()> {
        let (here, there) = (stack.capsule(&[])?, other.capsule(&[])?);
        for (stack, id) in [(stack, &here), (&other, &there)] {
            stack.exec(id, &["sh", "-c", "echo mine > file"])?;
        }
        // One agent dies and clears up after itself: what is not its own stays.
        other.kill_service("agent")?;
        wait_until("the other one answers again", WAIT, || Ok(other.exec(&there, &["cat", "file"])? == "mine"))?;
        ensure!(stack.exec(&here, &["cat", "file"])? == "mine");
        other.remove(&there)?;
        ensure!(stack.exec(&here, &["cat", "file"])? == "mine");
        stack.remove(&here)
    };
    let tried = tried();
    let before = other.before().clone();
    other.down()?;
    tried?;
    let own = |thing: &String| thing.contains("wrenn-vmtest");
    let left: Vec<_> = HostState::now().new_since(&before).into_iter().filter(own).collect();
    ensure!(left.is_empty(), "left by the other one: {left:?}");
    let id = stack.capsule(&[])?;
    stack.remove(&id)
}

fn quarantine(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let ledger: serde_json::Value =
        serde_json::from_slice(&std::fs::read(stack.store().join("sandboxes").join(&id).join("ledger.json"))?)?;
    let number = ledger["slot"].as_u64().context("no slot in the ledger")?;
    let known = HostState::now();
    let name = known.new_since(stack.before()).into_iter().find_map(|thing| {
        thing.strip_prefix("namespace ").filter(|name| name.ends_with(&format!("-{number}"))).map(str::to_owned)
    });
    let name = name.context("the namespace is not listed")?;
    let path = format!("/run/netns/{name}");
    // Held open, so that its inode is not given to another: a slot made next may have the same name at once.
    let first = std::fs::File::open(&path)?;
    let is_first = || {
        let (now, first) = (std::fs::metadata(&path).ok(), first.metadata()?);
        Ok::<_, anyhow::Error>(now.is_some_and(|now| (now.dev(), now.ino()) == (first.dev(), first.ino())))
    };
    // A second mount on the name: one detach uncovers the first, and the name does not go.
    let mounted = Command::new("mount").args(["--bind", &path, &path]).status()?;
    ensure!(mounted.success());
    stack.remove(&id)?;
    let log = || Ok::<_, anyhow::Error>(std::fs::read_to_string(stack.dir().join("log/agent.log"))?);
    wait_until("it is set aside", WAIT, || Ok(log()?.contains("quarantined")))?;
    // Others are made meanwhile, and the number is not used twice.
    let next = stack.capsule(&[])?;
    wait_until("it is gone in the end", WAIT, || Ok(!is_first()?))?;
    ensure!(stack.exec(&next, &["echo", "here"])? == "here");
    stack.remove(&next)
}

fn stopped_agent(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let agent = nix::unistd::Pid::from_raw(stack.service_pid("agent")?);
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGSTOP)?;
    let tried = || -> anyhow::Result<String> {
        let begin = Instant::now();
        ensure!(stack.status(&id)? == "running");
        let refused = stack.wrenn(&["exec", &id, "--", "true"])?;
        ensure!(refused.code != Some(0) && !refused.stderr.is_empty(), "{refused:?}");
        ensure!(begin.elapsed() < Duration::from_secs(60), "an error after {:?}", begin.elapsed());
        let made = stack.wrenn(&["--json", "capsule", "create", "--no-wait"])?.ok()?.json()?;
        Ok(made["id"].as_str().context("no id")?.to_owned())
    };
    let tried = tried();
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT)?;
    let late = tried?;
    wait_until("the agent serves again", WAIT, || Ok(stack.exec(&id, &["echo", "here"])? == "here"))?;
    wait_until("what was accepted comes about", WAIT, || Ok(stack.status(&late)? == "running"))?;
    stack.remove(&late)?;
    stack.remove(&id)
}

fn foreground(stack: &Stack) -> anyhow::Result<()> {
    let before = HostState::now();
    let dir = stack.scratch("foreground")?;
    let free = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
    let mut child = Command::new(stack.builds().join("wrenn"))
        .args(["dev", "--listen", &free()?, "--agent-listen", &free()?, "--dir"])
        .arg(&dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ready = wait_until("it is ready", WAIT * 2, || Ok(dir.join("run/ready").exists()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGINT)?;
    let status = child.wait()?;
    ready?;
    ensure!(status.success(), "Ctrl-C is an ordinary end: {status}");
    let left = HostState::now().new_since(&before);
    // Slots of the first stack come and go beside it.
    let left: Vec<_> =
        left.into_iter().filter(|thing| thing.contains("foreground") || thing.contains("wrenn-cp")).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
