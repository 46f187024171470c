//! What a test left behind: child processes and open files of this process.

use std::collections::BTreeSet;
use std::fs;

/// Child processes of this process now, as (pid, command line), the services' supervisor excepted.
pub fn children() -> BTreeSet<(u32, String)> {
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if parent != Some(own.as_str()) {
            continue;
        }
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        if !line.contains("supervise") {
            found.insert((pid, line));
        }
    }
    found
}
