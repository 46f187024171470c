//! `wrenn capsule create|list|get|rm|ping`, and what lifecycle.rs adds: `pause|resume|snapshot|fork`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use http::Method;
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus, CreateCapsule};

use super::arguments::capsule_id;
use super::template::template_name;
use crate::api::Client;
use crate::output::Output;
use wait::{ASK_EVERY, get, wait_running};

mod lifecycle;
mod metrics;
pub(super) mod show;
mod wait;

/// Bound of a wait for `rm --wait`.
const REMOVE_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub enum CapsuleCommand {
    /// Create a capsule, wait until it runs and print its id.
    Create {
        /// Template to create from; see `wrenn template list`.
        #[arg(default_value = "minimal")]
        template: String,
        /// Virtual CPUs.
        #[arg(long, value_name = "N")]
        vcpus: Option<i64>,
        /// Memory, MiB.
        #[arg(long, value_name = "MIB")]
        memory: Option<i64>,
        /// Disk the guest sees, MiB.
        #[arg(long, value_name = "MIB")]
        disk: Option<i64>,
        /// Seconds without activity until it is paused; 0 = never.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<i64>,
        /// Label, key=value; may be repeated.
        #[arg(long = "metadata", short = 'm', value_name = "KEY=VALUE", value_parser = label)]
        metadata: Vec<(String, String)>,
        /// Resume it when traffic comes to one of its ports while it is paused.
        #[arg(long)]
        auto_resume: bool,
        /// Let only callers with a key of the team reach its ports.
        #[arg(long)]
        private_ports: bool,
        /// Do not wait until it runs.
        #[arg(long)]
        no_wait: bool,
    },
    /// List capsules, newest first.
    #[command(visible_alias = "ls")]
    List,
    /// Show one capsule.
    Get {
        #[arg(value_parser = capsule_id)]
        id: String,
    },
    /// Delete capsules with everything in them.
    #[command(visible_alias = "delete")]
    Rm {
        #[arg(required = true, value_parser = capsule_id)]
        ids: Vec<String>,
        /// Wait until nothing is left of them.
        #[arg(long)]
        wait: bool,
    },
    /// Pause capsules: memory and disk are kept, nothing runs. Waits until they are paused.
    Pause {
        #[arg(required = true, value_parser = capsule_id)]
        ids: Vec<String>,
        /// Do not wait until they are paused.
        #[arg(long)]
        no_wait: bool,
    },
    /// Resume paused capsules where they were, or boot crashed ones from their disk. Waits until they run.
    Resume {
        #[arg(required = true, value_parser = capsule_id)]
        ids: Vec<String>,
        /// New time-out: seconds without activity until it is paused; 0 = never.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<i64>,
        /// Do not wait until they run.
        #[arg(long)]
        no_wait: bool,
    },
    /// Capture a running or paused capsule as a template, processes included, and print the template's name.
    Snapshot {
        #[arg(value_parser = capsule_id)]
        id: String,
        /// Name of the template; template- and 8 hex characters when absent.
        #[arg(value_parser = template_name)]
        name: Option<String>,
        /// Do not wait until the template can be used.
        #[arg(long)]
        no_wait: bool,
    },
    /// Make children of a capsule, all from the same instant, and print their ids. The capsule goes on.
    Fork {
        #[arg(value_parser = capsule_id)]
        id: String,
        /// How many.
        #[arg(long, short = 'n', default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(wrenn_domain::limits::FORK_CHILDREN_MAX)))]
        count: u32,
        /// Do not wait until they run.
        #[arg(long)]
        no_wait: bool,
    },
    /// Show what a capsule used lately; counts as no activity.
    Metrics {
        #[arg(value_parser = capsule_id)]
        id: String,
        /// How far back.
        #[arg(long, default_value = "10m", value_parser = ["5m", "10m", "1h", "2h", "6h", "12h", "24h"])]
        range: String,
    },
    /// Check that a capsule answers; counts as activity.
    Ping {
        #[arg(value_parser = capsule_id)]
        id: String,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs one of the commands.
///
/// # Errors
/// The server refuses or cannot be reached, or the capsule did not become what was waited for.
pub async fn run(command: CapsuleCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    match command {
        CapsuleCommand::Create {
            template,
            vcpus,
            memory,
            disk,
            timeout,
            metadata,
            auto_resume,
            private_ports,
            no_wait,
        } => {
            let labels: BTreeMap<_, _> = metadata.into_iter().collect();
            let request = CreateCapsule {
                template: Some(template),
                vcpus,
                memory_mb: memory,
                disk_size_mb: disk,
                timeout_sec: timeout,
                metadata: (!labels.is_empty()).then_some(labels),
                auto_resume: auto_resume.then_some(true),
                public_ports: private_ports.then_some(false),
            };
            create(request, no_wait, client, output).await?;
        }
        CapsuleCommand::List => {
            let capsules: Vec<Capsule> = client.get("/v1/capsules").await?;
            output.result(&capsules, || show::list(&capsules));
        }
        CapsuleCommand::Get { id } => {
            let capsule = get(client, &id).await?;
            output.result(&capsule, || show::describe(&capsule));
        }
        CapsuleCommand::Rm { ids, wait } => return remove(&ids, wait, client, output).await,
        CapsuleCommand::Pause { ids, no_wait } => return lifecycle::pause(&ids, no_wait, client, output).await,
        CapsuleCommand::Resume { ids, timeout, no_wait } => {
            return lifecycle::resume(&ids, timeout, no_wait, client, output).await;
        }
        CapsuleCommand::Snapshot { id, name, no_wait } => {
            lifecycle::snapshot(&id, name, no_wait, client, output).await?;
        }
        CapsuleCommand::Fork { id, count, no_wait } => {
            return lifecycle::fork(&id, count, no_wait, client, output).await;
        }
        CapsuleCommand::Metrics { id, range } => metrics::run(&id, &range, client, output).await?,
        CapsuleCommand::Ping { id } => {
            client.empty(Method::POST, &format!("/v1/capsules/{id}/ping")).await?;
            output.result(&serde_json::json!({"id": id, "ok": true}), || format!("{id} answers"));
        }
    }
    Ok(0)
}

async fn create(request: CreateCapsule, no_wait: bool, client: &Client, output: &Output) -> anyhow::Result<()> {
    let spinner = output.spinner("creating a capsule");
    let mut capsule: Capsule = client.post("/v1/capsules", &request).await?;
    if !no_wait {
        spinner.set_message(format!("starting {}", capsule.id));
        capsule = wait_running(client, capsule).await?;
    }
    spinner.finish_and_clear();
    output.result(&capsule, || capsule.id.clone());
    Ok(())
}

async fn remove(ids: &[String], wait: bool, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut failed = 0u8;
    for id in ids {
        let removed = remove_one(id, wait, client, output).await;
        match removed {
            Ok(()) => output.result(&serde_json::json!({"id": id, "removed": true}), || id.clone()),
            Err(error) => {
                failed = 1;
                output.failure(&error.context(format!("could not remove {id}")));
            }
        }
    }
    Ok(failed)
}

async fn remove_one(id: &str, wait: bool, client: &Client, output: &Output) -> anyhow::Result<()> {
    client.empty(Method::DELETE, &format!("/v1/capsules/{id}")).await?;
    if !wait {
        return Ok(());
    }
    let spinner = output.spinner(&format!("removing {id}"));
    let gone = async {
        loop {
            match client.get::<Capsule>(&format!("/v1/capsules/{id}")).await {
                Ok(capsule) if capsule.status == CapsuleStatus::Stopped => return anyhow::Ok(()),
                Ok(_) => {}
                // Its row is gone too.
                Err(error) if error.status() == Some(404) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(REMOVE_WAIT, gone)
        .await
        .with_context(|| format!("still stopping after {} s; its host may be away", REMOVE_WAIT.as_secs()))??;
    spinner.finish_and_clear();
    Ok(())
}
