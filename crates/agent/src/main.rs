//! `wrenn-agent`: reads its settings, prepares the agent, serves until told to stop.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use wrenn_agent::Agent;
use wrenn_agent::config::Config;
use wrenn_agent::leftovers;
use wrenn_agent::probe::{self, Verdict};
use wrenn_linux::own_process;

/// Runs microVM sandboxes on this machine for a Wrenn control plane.
#[derive(Debug, Parser)]
#[command(name = "wrenn-agent", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default).
    Serve,
    /// Remove every sandbox, and everything of this agent on the machine. The agent must not be running.
    Purge,
    /// Remove namespaces, rules, mounts and VMMs of agents whose directory is gone.
    RemoveLeftovers,
    /// Look whether this machine can run guests; changes nothing.
    Probe {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("wrenn-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let filter = EnvFilter::new(format!("{},netlink_packet_route=error", config.log_level));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let to = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    to.with_ansi(colours).with_target(false).init();
    if let Err(error) = own_process::keep_private() {
        eprintln!("wrenn-agent: could not keep the memory of this process private: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wrenn-agent: could not start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args.command.unwrap_or(Command::Serve), config)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wrenn-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => {
            config.check_served()?;
            Agent::prepare(config).await?.run(stop_signal()).await?;
        }
        Command::Purge => Agent::prepare(config).await?.purge().await?,
        Command::RemoveLeftovers => return remove_leftovers().await,
        Command::Probe { json } => return Ok(show(&probe::run(&config).await, json)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove_leftovers() -> anyhow::Result<ExitCode> {
    let mut outcome = ExitCode::SUCCESS;
    for leftover in leftovers::find()? {
        let text = leftover.to_string();
        match leftover.remove().await {
            Ok(()) => println!("removed: {text}"),
            Err(error) => {
                eprintln!("wrenn-agent: {text} does not go: {error}");
                outcome = ExitCode::FAILURE;
            }
        }
    }
    Ok(outcome)
}

fn show(findings: &[probe::Finding], json: bool) -> ExitCode {
    if json {
        println!("{}", serde_json::to_string(findings).unwrap_or_default());
    } else {
        for finding in findings {
            println!("{:?} {}: {} {}", finding.verdict, finding.check, finding.detail, finding.remedy);
        }
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Failure);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without signals only a kill ends us; that loses nothing.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; running VMs stay for the next agent");
}
