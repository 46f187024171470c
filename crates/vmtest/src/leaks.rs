//! What a test run may leave on the machine: nothing. Compares what is there before and after.

use std::collections::BTreeSet;
use std::process::Command;

/// Beginning of the name of every stack's directory.
pub(crate) const DIR_PREFIX: &str = "wrenn-vmtest-";

/// Things of ours that the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    things: BTreeSet<String>,
}

impl HostState {
    /// Looks at processes, namespaces, links, tables, loop devices and mounts.
    pub fn now() -> Self {
        let mut things = BTreeSet::new();
        things.extend(processes());
        things.extend(lines(
            "ip",
            &["-o", "link", "show"],
            |l| l.split(':').nth(1).map(|n| n.trim().split('@').next().unwrap_or(n).to_owned()),
            "link",
        ));
        things.extend(lines("ip", &["netns", "list"], |l| l.split_whitespace().next().map(str::to_owned), "namespace"));
        things.extend(lines("nft", &["list", "tables"], |l| Some(l.to_owned()), "table"));
        things.extend(lines(
            "losetup",
            &["-l", "-n", "-O", "NAME,BACK-FILE"],
            |l| Some(l.split_whitespace().collect::<Vec<_>>().join(" ")),
            "loop",
        ));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        things.extend(mounts.lines().filter_map(|l| l.split_whitespace().nth(1)).map(|m| format!("mount {m}")));
        Self { things }
    }

    /// What is there now and was not there before.
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        self.things.difference(&before.things).cloned().collect()
    }
}

/// Programs a stack starts.
const PROGRAMS: [&str; 6] = ["qemu-system-x86", "wrenn-agent", "wrenn-cp", "wrenn", "postgres", "redis-server"];

fn processes() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let name = name.trim();
            (PROGRAMS.contains(&name) && is_of_a_stack(pid)).then(|| format!("process {pid} {name}"))
        })
        .collect()
}

/// Other suites run the same programs, perhaps at the same time: a stack's own know its directory by argument, environment, or working directory.
fn is_of_a_stack(pid: u32) -> bool {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let all = [read("cmdline"), read("environ"), directory.into_os_string().into_encoded_bytes()];
    all.iter().any(|text| text.windows(DIR_PREFIX.len()).any(|part| part == DIR_PREFIX.as_bytes()))
}

fn lines(program: &str, args: &[&str], pick: impl Fn(&str) -> Option<String>, what: &str) -> Vec<String> {
    let Ok(output) = Command::new(program).args(args).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(pick).map(|thing| format!("{what} {thing}")).collect()
}
