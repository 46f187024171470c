//! Laws of single files: headers, sizes, names, where unsafe code and child processes may be.

use super::{Problem, Source};

/// Production lines of one file.
const LINES_MAX: usize = 800;
/// Production lines that nine of ten files stay under.
const LINES_P90: usize = 400;
/// Production lines that half of the files stay under.
const LINES_MEDIAN: usize = 150;

/// Where processes may be started: the wall for it, developer commands, and the supervisor of `wrenn dev` with `doctor`.
const CHILD_PROCESS_ROOMS: [&str; 4] =
    ["crates/linux/", "xtask/", "crates/cli/src/dev/", "crates/cli/src/commands/doctor.rs"];

/// Runs every check on every file.
pub fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        header(source, &mut problems);
        names(source, &mut problems);
        walls(source, &mut problems);
        names_of_tests(source, &mut problems);
    }
    sizes(sources, &mut problems);
    problems
}

fn header(source: &Source, problems: &mut Vec<Problem>) {
    if !source.text.starts_with("//! ") {
        problems.push(Problem::new(&source.path, "does not open with a //! header that says what it is"));
    }
}

fn names(source: &Source, problems: &mut Vec<Problem>) {
    let banned = ["util", "utils", "helper", "helpers", "common", "misc"];
    for part in source.path.trim_end_matches(".rs").split('/') {
        if banned.contains(&part) {
            problems.push(Problem::new(&source.path, format!("{part} says nothing; name what it holds")));
        }
    }
    for line in source.production() {
        let declared = ["struct ", "enum ", "trait "].iter().find_map(|word| {
            let (before, after) = line.split_once(word)?;
            matches!(before.trim(), "" | "pub" | "pub(crate)" | "pub(super)").then_some(after)
        });
        let name = declared.and_then(|d| d.split(|c: char| !c.is_alphanumeric()).next()).unwrap_or_default();
        if name.ends_with("Manager") || name.ends_with("Helper") {
            problems.push(Problem::new(&source.path, format!("{name}: name what it holds instead")));
        }
    }
}

fn walls(source: &Source, problems: &mut Vec<Problem>) {
    if source.path.starts_with("xtask/src/tidy/") {
        return;
    }
    let linux = source.path.starts_with("crates/linux/");
    let may_start = source.is_test() || CHILD_PROCESS_ROOMS.iter().any(|room| source.path.starts_with(room));
    for (number, line) in source.production().enumerate() {
        let position = || format!("{}:{}", source.path, number + 1);
        if !linux && line.contains("allow(unsafe_code)") {
            problems.push(Problem::new(position(), "unsafe code lives in crates/linux"));
        }
        if !may_start && line.contains("Command::new(") && !line.contains("clap") {
            problems.push(Problem::new(position(), "child processes are started in crates/linux"));
        }
    }
}

fn names_of_tests(source: &Source, problems: &mut Vec<Problem>) {
    for (number, line) in source.text.lines().enumerate() {
        if line.trim_start().trim_start_matches("async ").starts_with(concat!("fn te", "st_")) {
            problems.push(Problem::new(
                format!("{}:{}", source.path, number + 1),
                "a test name is a sentence without test_ in front",
            ));
        }
    }
}

fn sizes(sources: &[Source], problems: &mut Vec<Problem>) {
    let mut lengths = Vec::new();
    for source in sources.iter().filter(|s| !s.is_test()) {
        let lines = source.production().count();
        lengths.push(lines);
        if lines > LINES_MAX {
            problems
                .push(Problem::new(&source.path, format!("{lines} production lines; split by noun or phase of life")));
        }
    }
    lengths.sort_unstable();
    let at = |share: usize| lengths.get(lengths.len() * share / 100).copied().unwrap_or(0);
    for (share, bound) in [(50, LINES_MEDIAN), (90, LINES_P90)] {
        if at(share) >= bound {
            let what = format!("{share} in 100 files have up to {} production lines; the bound is {bound}", at(share));
            problems.push(Problem::new("all files", what));
        }
    }
}
