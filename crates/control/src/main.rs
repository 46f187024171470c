//! wrenn-cp: serves the control plane, migrates its database, and makes API keys.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use wrenn_control::{Config, Server, service};
use wrenn_domain::ids::KeyId;
use wrenn_store::redis::Redis;
use wrenn_store::{Store, StoreOptions};

/// Wrenn's control plane.
#[derive(Parser)]
#[command(name = "wrenn-cp", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API (default).
    Serve,
    /// Bring the database schema up to date and end.
    Migrate,
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Admins of the platform.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Accounts, for whoever runs the server.
    #[command(subcommand)]
    User(UserCommand),
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Make an admin of the platform, or make the account there is one. The password is made here and shown this once; every
    /// session of the account ends. Nobody becomes an admin in another way but by an admin's act.
    Create {
        #[arg(long)]
        email: String,
        #[arg(long, default_value = "Admin")]
        name: String,
        /// Make it the owner of this team, if that has none.
        #[arg(long)]
        team: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum UserCommand {
    /// Make an account, or give the one there is a new password. The password is made here and shown this once; every session
    /// of the account ends.
    Ensure {
        #[arg(long)]
        email: String,
        #[arg(long, default_value = "Admin")]
        name: String,
        /// Make it an admin of the platform.
        #[arg(long)]
        admin: bool,
        /// Make it the owner of this team, if that has none.
        #[arg(long)]
        team: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key for a team, and the team if there is none of that name. The key is shown this once.
    Create {
        #[arg(long)]
        team: String,
        #[arg(long, default_value = "default")]
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List keys, without their secrets.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a key back; it stops working within a second.
    Revoke {
        /// key-...
        id: String,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wrenn-cp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::load()?;
    log_to_stderr(&config);
    // Two threads are enough to keep a database busy; more cost memory in small installations.
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        match args.command.unwrap_or(Command::Serve) {
            Command::Serve => Server::builder().version(env!("CARGO_PKG_VERSION")).config(config).run().await,
            Command::Migrate => open(&config).await.map(|_| ()),
            Command::Key(command) => key(&config, command).await,
            Command::Admin(AdminCommand::Create { email, name, team, json }) => {
                user(&config, UserCommand::Ensure { email, name, admin: true, team, json }).await
            }
            Command::User(command) => user(&config, command).await,
        }
    })
}

fn log_to_stderr(config: &Config) {
    let level = config.log_level;
    let filter = EnvFilter::new(format!("{level},sqlx=warn,hyper=warn,h2=warn,tungstenite=warn"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let to = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if config.log_json { to.json().init() } else { to.init() }
}

async fn open(config: &Config) -> anyhow::Result<Store> {
    let store = Store::new(&StoreOptions { connections_max: 2, ..StoreOptions::new(&config.database_url) })?;
    store.migrate().await.context("DATABASE_URL")?;
    Ok(store)
}

async fn user(config: &Config, command: UserCommand) -> anyhow::Result<()> {
    let UserCommand::Ensure { email, name, admin, team, json } = command;
    let store = open(config).await?;
    let request = service::accounts::EnsureAccount {
        email: email.parse()?,
        name: name.parse()?,
        admin,
        team: team.as_deref().map(str::parse).transpose()?,
    };
    let (id, password) = service::accounts::ensure(&store, request).await?;
    if json {
        println!("{}", serde_json::json!({ "id": id, "email": email, "password": password, "admin": admin }));
    } else {
        println!("{email}  {password}");
    }
    Ok(())
}

async fn key(config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let store = open(config).await?;
    match command {
        KeyCommand::Create { team, name, json } => {
            let (id, team_id, key) = service::keys::create(&store, &team, &name).await?;
            if json {
                let shown = serde_json::json!({ "id": id, "team_id": team_id, "team": team, "name": name, "key": key.reveal() });
                println!("{shown}");
            } else {
                println!("{}", key.reveal());
            }
        }
        KeyCommand::List { json } => {
            for row in store.key_list().await? {
                let (id, team) = (row.id.to_string(), &row.team_name);
                if json {
                    println!(
                        "{}",
                        serde_json::json!({ "id": id, "team_id": row.team, "team": team, "name": row.name, "key_prefix": row.prefix,
                            "created_at": row.created_at, "last_used": row.last_used, "revoked_at": row.revoked_at })
                    );
                } else {
                    let state = if row.revoked_at.is_some() { "revoked" } else { "valid" };
                    println!("{id}  {}...  {state}  {team}  {}", row.prefix, row.name);
                }
            }
        }
        KeyCommand::Revoke { id } => {
            let id: KeyId = id.parse()?;
            let hash = store.key_revoke(id).await?.with_context(|| format!("there is no key {id}"))?;
            let published = async { Redis::new(&config.redis_url, &config.redis_prefix)?.key_revoked(&hash).await };
            if let Err(error) = published.await {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "the key may work for one more second"
                );
            }
            println!("revoked {id}");
        }
    }
    Ok(())
}
