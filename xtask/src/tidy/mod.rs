//! `cargo xtask tidy`: laws of the tree that neither compiler nor clippy keeps.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

mod directions;
mod docs;
mod files;
mod literals;
mod modules;
mod names;
mod syntax;

/// One broken law.
pub struct Problem {
    position: String,
    what: String,
}

impl Problem {
    fn new(position: impl Into<String>, what: impl Into<String>) -> Self {
        Self { position: position.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.what)
    }
}

/// A Rust source file of ours.
pub struct Source {
    /// Relative to the workspace, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// Lines before the inline test module.
    fn production(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]")
    }

    fn is_test(&self) -> bool {
        let folder = |name: &str| self.path.contains(&format!("/{name}/"));
        // A module's own tests may fill a file of their own.
        let file = self.path.ends_with("/tests.rs");
        file || folder("tests") || folder("testkit") || folder("vmtest") || self.path.starts_with("bench/")
    }
}

/// Runs every check and prints what is broken.
///
/// # Errors
/// Something is out of order, or cannot be read.
pub fn run() -> anyhow::Result<()> {
    let problems = check(&crate::root())?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} things are out of order", problems.len());
    }
    println!("tidy");
    Ok(())
}

fn check(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let sources = sources(root)?;
    let mut problems = directions::check(root)?;
    problems.extend(files::check(&sources));
    problems.extend(modules::check(root, &sources)?);
    problems.extend(names::check(&sources)?);
    problems.extend(docs::check(&sources)?);
    problems.extend(literals::check(root, &sources)?);
    problems.extend(architecture_length(root)?);
    Ok(problems)
}

/// Prints which modules of each crate name which others today, in the form of the table in docs/ARCHITECTURE.md.
///
/// # Errors
/// A file cannot be read or parsed.
pub fn print_modules() -> anyhow::Result<()> {
    modules::print(&sources(&crate::root())?)
}

/// The lines of a document between `<!-- name -->` and `<!-- /name -->`.
fn section<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    inside
        .map(|(inside, _)| inside)
        .with_context(|| format!("docs/ARCHITECTURE.md has nothing between {begin} and {end}"))
}

fn architecture_length(root: &Path) -> anyhow::Result<Option<Problem>> {
    const PLACE: &str = "docs/ARCHITECTURE.md";
    let text = std::fs::read_to_string(root.join(PLACE)).context(PLACE)?;
    let lines = text.lines().count();
    Ok((lines >= 200).then(|| Problem::new(PLACE, format!("{lines} lines; it stays under 200"))))
}

fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "xtask", "bench", "examples"].iter().map(|d| root.join(d)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.context("cannot list the tree")?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let relative = path.strip_prefix(root).context("outside the tree")?;
                found.push(Source { path: relative.to_string_lossy().into_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let problems = check(&crate::root()).unwrap();
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "\n{}", text.join("\n"));
    }
}
