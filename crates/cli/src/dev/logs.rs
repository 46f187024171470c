//! Shows the services' log files on the terminal as they grow, each line with its service's name.
//!
//! Files rather than pipes: a service must not notice when the supervisor dies.

use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::child::log_path;

/// Between two looks at the files; logs are for people.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Bytes shown per file and look; a flood is cut into pieces, never lost from the file.
const PIECE: u64 = 256 * 1024;

struct Followed {
    name: &'static str,
    path: PathBuf,
    offset: u64,
    half_line: Vec<u8>,
}

/// Follows the log files until dropped; begins at what is there now.
pub fn follow(log: &Path, names: &[&'static str]) -> tokio::task::JoinHandle<()> {
    let mut files: Vec<Followed> = names
        .iter()
        .map(|name| {
            let path = log_path(log, name);
            let offset = path.metadata().map_or(0, |meta| meta.len());
            Followed { name, path, offset, half_line: Vec::new() }
        })
        .collect();
    let colour = std::io::stderr().is_terminal();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            for (index, file) in files.iter_mut().enumerate() {
                show(file, colour.then_some(31 + index % 6));
            }
        }
    })
}

fn show(file: &mut Followed, colour: Option<usize>) {
    let Some(fresh) = read_fresh(file) else { return };
    file.half_line.extend_from_slice(&fresh);
    let Some(end) = file.half_line.iter().rposition(|b| *b == b'\n') else { return };
    let lines: Vec<u8> = file.half_line.drain(..=end).collect();
    let mut out = std::io::stderr().lock();
    for line in String::from_utf8_lossy(&lines).lines() {
        // The terminal may be gone; the files stay.
        let _ = match colour {
            Some(code) => writeln!(out, "\u{1b}[{code}m{:>8}\u{1b}[0m | {line}", file.name),
            None => writeln!(out, "{:>8} | {line}", file.name),
        };
    }
}

fn read_fresh(file: &mut Followed) -> Option<Vec<u8>> {
    let size = file.path.metadata().ok()?.len();
    if size < file.offset {
        file.offset = 0;
    }
    if size == file.offset {
        return None;
    }
    let mut handle = std::fs::File::open(&file.path).ok()?;
    handle.seek(SeekFrom::Start(file.offset)).ok()?;
    let mut fresh = Vec::new();
    handle.take(PIECE).read_to_end(&mut fresh).ok()?;
    file.offset += fresh.len() as u64;
    Some(fresh)
}
