//! Who may depend on whom: the table in docs/ARCHITECTURE.md against what cargo knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::{Problem, section};

/// Lines of the form `agent -> domain, contract`.
type Table = BTreeMap<String, BTreeSet<String>>;

/// Compares both.
///
/// # Errors
/// Cargo or the table cannot be read.
pub fn check(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let allowed = table(root)?;
    let mut problems = Vec::new();
    for (room, uses) in actual(root)? {
        let Some(may) = allowed.get(&room) else {
            problems.push(Problem::new(&room, "is not in the table of directions in docs/ARCHITECTURE.md"));
            continue;
        };
        if may.contains("any") {
            continue;
        }
        for other in uses.difference(may) {
            problems
                .push(Problem::new(&room, format!("depends on {other}, which the table of directions does not allow")));
        }
    }
    Ok(problems)
}

fn table(root: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).context("docs/ARCHITECTURE.md")?;
    let mut table = Table::new();
    for line in section(&text, "directions")?.lines() {
        let Some((room, uses)) = line.trim().trim_start_matches("- ").trim_matches('`').split_once("->") else {
            continue;
        };
        let uses = uses.split(',').map(|u| u.trim().to_owned()).filter(|u| u != "none").collect();
        table.insert(room.trim().to_owned(), uses);
    }
    Ok(table)
}

fn actual(root: &Path) -> anyhow::Result<Table> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let short = |name: &str| name.strip_prefix("wrenn-").unwrap_or(name).to_owned();
    let mut table = Table::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let dependencies = package["dependencies"].as_array().context("no dependencies")?;
        let ours = dependencies
            .iter()
            // Test-only edges may point anywhere: testkit and simulated edges are for that.
            .filter(|d| d["kind"] != "dev" && d["path"].is_string())
            .filter_map(|d| d["name"].as_str().map(short))
            .collect();
        table.insert(short(package["name"].as_str().context("no name")?), ours);
    }
    Ok(table)
}
