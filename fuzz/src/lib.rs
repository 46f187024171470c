//! Fuzz targets for every parser of hostile or half-written bytes, and the loop that feeds them.
//!
//! Owns the table of targets and their corpora in `corpus/NAME/`. Never holds a parser: each target is a function of the crate
//! that owns the parser. The tests run every corpus; `wrenn-fuzz` mutates them for as long as it is told to (README.md).
//!
//! The loop is our own because a coverage-guided one needs a nightly compiler, and one that only makes random bytes never gets
//! beyond the first brace of a JSON document.

mod mutate;

use std::path::{Path, PathBuf};

pub use mutate::{INPUT_BYTES_MAX, Mutator};

/// Target is one parser under test. It fails by a panic, or by an input that takes longer than [`INPUT_WAIT`].
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target and of the directory of its corpus.
    pub name: &'static str,
    /// Function that parses the bytes and checks what must hold for every outcome.
    pub run: fn(&[u8]),
}

/// Longest time one input may take, far above what a debug build on a loaded machine needs for one.
pub const INPUT_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "channel_config", run: wrenn_control::fuzz::channel_config },
    Target { name: "cookies", run: wrenn_control::fuzz::cookies },
    Target { name: "image", run: wrenn_agent::fuzz::image },
    Target { name: "ledger", run: wrenn_agent::fuzz::ledger },
    Target { name: "manifest", run: wrenn_agent::fuzz::manifest },
    Target { name: "proxy_head", run: wrenn_control::fuzz::proxy_head },
    Target { name: "qmp", run: wrenn_vmm::fuzz::qmp },
];

/// Directory of a target's corpus.
pub fn corpus_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// Inputs of a target's corpus with their paths, sorted by path.
///
/// # Errors
/// The directory or one of its files cannot be read.
pub fn corpus(name: &str) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths =
        std::fs::read_dir(corpus_dir(name))?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), std::fs::read(path)?))).collect()
}
