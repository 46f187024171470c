//! Figures with their floors: a table for people, JSON for machines, and whether every bound was kept.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

/// On which side of its bound a figure must stay.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: String,
    unit: String,
    /// Ours.
    value: f64,
    /// What lies beneath, in the same unit; absent where the bound is absolute.
    floor: Option<f64>,
    ratio: Option<f64>,
    bound: Option<Bound>,
    kept: Option<bool>,
    runs: usize,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    cpus: usize,
    figures: Vec<Figure>,
}

impl Report {
    /// An empty report of this machine.
    pub fn new() -> Self {
        Self { cpus: std::thread::available_parallelism().map_or(1, usize::from), figures: Vec::new() }
    }

    /// Ours against the floor of the same run.
    pub fn against(&mut self, name: &str, unit: &str, value: f64, floor: f64, bound: Option<Bound>, runs: usize) {
        let ratio = value / floor;
        self.push(name, unit, value, Some(floor), Some(ratio), bound, ratio, runs);
    }

    /// A figure with an absolute bound, or none.
    pub fn alone(&mut self, name: &str, unit: &str, value: f64, bound: Option<Bound>, runs: usize) {
        self.push(name, unit, value, None, None, bound, value, runs);
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of a table")]
    fn push(
        &mut self,
        name: &str,
        unit: &str,
        value: f64,
        floor: Option<f64>,
        ratio: Option<f64>,
        bound: Option<Bound>,
        judged: f64,
        runs: usize,
    ) {
        let kept = bound.map(|bound| match bound {
            Bound::AtMost(most) => judged <= most,
            Bound::AtLeast(least) => judged >= least,
        });
        let figure = Figure { name: name.into(), unit: unit.into(), value, floor, ratio, bound, kept, runs };
        eprintln!("  {}", row(&figure).join("  "));
        self.figures.push(figure);
    }

    /// Columns for people.
    pub fn table(&self) -> String {
        let header = ["figure", "ours", "floor", "ratio", "bound", "kept", "runs"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(header).chain(self.figures.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..7).map(width).collect();
        let line = |r: &[String; 7]| {
            let cells = r.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Writes the JSON form.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let dir = file.parent().context("no directory")?;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        std::fs::write(file, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Fails when a bound was not kept.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let broken: Vec<_> = self.figures.iter().filter(|f| f.kept == Some(false)).map(|f| f.name.as_str()).collect();
        if broken.is_empty() {
            return Ok(());
        }
        bail!("out of bounds: {}", broken.join(", "))
    }
}

fn row(f: &Figure) -> [String; 7] {
    let number = |value: f64| format!("{value:.1} {}", f.unit);
    let bound = f.bound.map_or_else(String::new, |bound| match bound {
        Bound::AtMost(most) => format!("<= {most}"),
        Bound::AtLeast(least) => format!(">= {least}"),
    });
    let kept = f.kept.map_or("", |kept| if kept { "yes" } else { "NO" });
    [
        f.name.clone(),
        number(f.value),
        f.floor.map_or_else(String::new, number),
        f.ratio.map_or_else(String::new, |r| format!("{r:.2}")),
        bound,
        kept.to_owned(),
        f.runs.to_string(),
    ]
}

/// The value in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds at a percentile (0 to 100) of the samples.
pub fn percentile_ms(samples: &[Duration], percentile: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percentile / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}
