//! One file per noun. A command checks its arguments, calls the API, renders.

use clap::Subcommand;

use crate::api::{Client, Connection};
use crate::output::Output;

mod arguments;
mod audit;
mod capsule;
mod channel;
mod command_args;
mod cp;
mod doctor;
mod ending;
mod events;
mod exec;
mod exit_codes;
mod final_state;
mod key;
mod login;
mod logs;
mod port;
mod processes;
mod shell;
mod team;
mod template;
mod top;
mod usage;

pub use exit_codes::TOOL_FAILED;

/// Every command of `wrenn`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list and remove capsules.
    #[command(subcommand, visible_alias = "c")]
    Capsule(capsule::CapsuleCommand),
    Exec(exec::ExecArgs),
    Shell(shell::ShellArgs),
    /// Show what a process printed lately, or the capsule's console.
    Logs(logs::LogsArgs),
    /// List a capsule's processes.
    Ps(processes::PsArgs),
    /// Signal processes of a capsule; kills them unless another signal is named.
    Kill(processes::KillArgs),
    /// Copy files and folders between this machine and a capsule.
    Cp(cp::CpArgs),
    /// Carry raw TCP from ports of this machine to ports of a capsule.
    PortForward(port::ForwardArgs),
    /// Print the address of a port of a capsule.
    Url(port::UrlArgs),
    /// Templates that capsules are created from.
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Log in at a control plane: approve this program in a browser, or paste a key.
    Login(login::LoginArgs),
    /// Forget a login and revoke its key.
    Logout,
    /// Show who the key in use speaks for.
    Whoami,
    /// Logins at several servers.
    #[command(subcommand)]
    Context(login::ContextCommand),
    /// Teams and their members.
    #[command(subcommand)]
    Team(team::TeamCommand),
    /// API keys of a team.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Where the team hears of what happens to its capsules: webhooks and chats.
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Show who did what in a team.
    Audit(audit::AuditArgs),
    /// Follow what happens to the team's capsules.
    Events(events::EventsArgs),
    /// Show what capsules use now, as a live table.
    Top(top::TopArgs),
    /// Show what the team used, by day.
    Usage(usage::UsageArgs),
    /// Check whether this machine can run Wrenn, with a remedy for each finding.
    Doctor(doctor::DoctorArgs),
    /// Run all of Wrenn on this machine: database, cache, control plane and host agent.
    Dev(crate::dev::DevArgs),
    /// Print the completion script for a shell.
    Completion {
        /// Shell to complete for.
        shell: clap_complete::Shell,
    },
}

/// Runs one command; the number is the exit code.
///
/// # Errors
/// The command failed; the message says what to do.
pub async fn run(
    command: Command,
    context: Option<String>,
    connection: Connection,
    output: &Output,
) -> anyhow::Result<u8> {
    match command {
        Command::Capsule(command) => capsule::run(command, &Client::new(&connection)?, output).await,
        Command::Exec(args) => exec::run(args, &Client::new(&connection)?, output).await,
        Command::Shell(args) => shell::run(args, &Client::new(&connection)?, output).await,
        Command::Logs(args) => logs::run(args, &Client::new(&connection)?, output).await,
        Command::Ps(args) => processes::run(args, &Client::new(&connection)?, output).await,
        Command::Kill(args) => processes::kill(args, &Client::new(&connection)?, output).await,
        Command::Cp(args) => cp::run(args, &Client::new(&connection)?, output).await,
        Command::PortForward(args) => port::forward(args, &Client::new(&connection)?, output).await,
        Command::Url(args) => port::url(&args, &Client::new(&connection)?, output),
        Command::Template(command) => template::run(command, &Client::new(&connection)?, output).await,
        Command::Login(args) => login::login(args, connection, output).await,
        Command::Logout => login::logout(context, output).await,
        Command::Whoami => login::whoami(&Client::new(&connection)?, output).await,
        Command::Context(command) => login::context(command, output),
        Command::Team(command) => team::run(command, &Client::new(&connection)?, output).await,
        Command::Key(command) => key::run(command, &Client::new(&connection)?, output).await,
        Command::Channel(command) => channel::run(command, &Client::new(&connection)?, output).await,
        Command::Audit(args) => audit::run(args, &Client::new(&connection)?, output).await,
        Command::Events(args) => events::run(args, &Client::new(&connection)?, output).await,
        Command::Top(args) => top::run(args, &Client::new(&connection)?, output).await,
        Command::Usage(args) => usage::run(args, &Client::new(&connection)?, output).await,
        Command::Doctor(args) => doctor::run(args, &connection, output).await,
        Command::Dev(args) => crate::dev::run(args, output).await,
        // Handled before the runtime starts.
        Command::Completion { .. } => Ok(0),
    }
}
