//! `make bench`: what Wrenn costs above the floor beneath it. Every figure stands beside its floor, measured in the same
//! run and in turn with it, because machines drift; what counts is the ratio.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use wrenn_vmtest::Stack;

mod auth;
mod bare;
mod bare_server;
mod captures;
mod create;
mod events;
mod exec;
mod files;
mod guest;
mod memory;
mod ports;
mod reads;
mod report;
mod rest;
mod terminal;

use report::Report;

#[derive(Debug, Parser)]
struct Args {
    /// Fewer runs, to see that everything works; the figures mean less.
    #[arg(long)]
    quick: bool,
    /// Only these sections.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The floor of `reads`: one route, one primary-key SELECT.
    #[command(hide = true)]
    BareServer { database_url: String },
}

/// What every section gets.
pub struct Bench<'a> {
    stack: &'a Stack,
    builds: PathBuf,
    quick: bool,
}

impl Bench<'_> {
    /// `full` runs, or a few with `--quick`.
    fn runs(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10).max(2) } else { full }
    }
}

type Section = (&'static str, fn(&Bench, &mut Report) -> anyhow::Result<()>);

/// In this order: memory first, while everything is idle and fresh.
const SECTIONS: [Section; 10] = [
    ("memory", memory::run),
    ("create", create::run),
    ("captures", captures::run),
    ("exec", exec::run),
    ("terminal", terminal::run),
    ("files", files::run),
    ("reads", reads::run),
    ("auth", auth::run),
    ("events", events::run),
    ("ports", ports::run),
];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::BareServer { database_url }) = args.command {
        return bare_server::serve(&database_url);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("no workspace")?;
    let builds = root.join("builds");
    if let Some(why) = Stack::missing(&builds) {
        bail!("{why}; run `make build images` first");
    }
    eprintln!("starting a stack of its own");
    let stack = Stack::up(&builds)?;
    let bench = Bench { stack: &stack, builds, quick: args.quick };
    let mut report = Report::new();
    let mut outcome = Ok(());
    for (name, section) in SECTIONS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("measuring: {name}");
        outcome = section(&bench, &mut report).with_context(|| format!("section {name}"));
        if outcome.is_err() {
            break;
        }
    }
    stack.down()?;
    outcome?;
    println!("{}", report.table());
    report.write(&root.join("bench/out/latest.json"))?;
    if args.quick { Ok(()) } else { report.verdict() }
}
