//! `wrenn port-forward ID LOCAL:REMOTE...` and `wrenn url ID PORT`: the two ways to a port of a capsule.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use futures::future::select_all;
use http::Uri;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use wrenn_contract::rest::capsules::Capsule;
use wrenn_domain::limits::FORWARD_CONNECTIONS_MAX;

use super::arguments::capsule_id;
use super::final_state;
use crate::api::{Client, Tunnel};
use crate::output::Output;

/// The hosted service's dashboard, and the domain of its capsules' ports.
const HOSTED: (&str, &str) = ("app.wrenn.dev", "wrenn.dev");

#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// Capsule to reach.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// [ADDRESS:]LOCAL:REMOTE, or one port for both; LOCAL 0 takes a free one. May be repeated.
    #[arg(required = true, value_name = "LOCAL:REMOTE")]
    ports: Vec<Forward>,
}

#[derive(Debug, Args)]
pub struct UrlArgs {
    /// Capsule to reach.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// Port a server in the capsule listens on.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Domain under which the control plane takes traffic for ports; that of its own address when absent.
    #[arg(long, env = "WRENN_PROXY_DOMAIN", value_name = "DOMAIN")]
    proxy_domain: Option<String>,
}

/// A port here and one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forward {
    local: SocketAddr,
    remote: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not LOCAL:REMOTE, as in 8080:80");
        let (local, remote) = text.rsplit_once(':').unwrap_or((text, text));
        let remote = remote.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let local = local.parse().map(here).or_else(|_| local.parse::<SocketAddr>()).map_err(|_| wrong())?;
        Ok(Self { local, remote })
    }
}

/// Line of `--json` for one port, printed once everything listens.
#[derive(Serialize)]
struct Listening {
    listen: SocketAddr,
    remote: u16,
}

/// Listens and carries connections until Ctrl-C, or until the capsule has come to an end.
///
/// # Errors
/// The capsule is not there or came to an end, or a port here cannot be listened on.
pub async fn forward(args: ForwardArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    // A capsule that is not there, or came to an end, is told now rather than to the first connection.
    let capsule: Capsule = client.get(&format!("/v1/capsules/{}", args.id)).await?;
    if let Some(end) = final_state::of(&capsule) {
        bail!(end);
    }
    let mut listeners = Vec::new();
    let mut listening = Vec::new();
    for Forward { local, remote } in args.ports {
        let listener = TcpListener::bind(local).await.with_context(|| format!("cannot listen on {local}"))?;
        listening.push(Listening { listen: listener.local_addr()?, remote });
        listeners.push((listener, remote));
    }
    output.result(&listening, || {
        let lines = listening.iter().map(|at| format!("{} -> {} port {}", at.listen, args.id, at.remote));
        lines.collect::<Vec<_>>().join("\n")
    });
    let permits = Arc::new(Semaphore::new(FORWARD_CONNECTIONS_MAX));
    let accepting = listeners.into_iter().map(|(listener, remote)| {
        Box::pin(accept(listener, remote, args.id.clone(), client.clone(), permits.clone(), *output))
    });
    tokio::select! {
        (failed, _, _) = select_all(accepting) => failed.map(|()| 1),
        // Nothing will answer any more, so whoever waits here should know.
        end = final_state::reached(client, &args.id) => Err(end),
        stopped = tokio::signal::ctrl_c() => stopped.map(|()| 0).context("cannot wait for Ctrl-C"),
    }
}

async fn accept(
    listener: TcpListener,
    remote: u16,
    id: String,
    client: Client,
    permits: Arc<Semaphore>,
    output: Output,
) -> anyhow::Result<()> {
    loop {
        // Whoever comes while all are taken waits in the kernel's queue.
        let permit = permits.clone().acquire_owned().await?;
        let (local, _) = listener.accept().await.context("cannot take connections any more")?;
        let (id, client) = (id.clone(), client.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(&client, &id, remote, local).await {
                output.note(&format!("port {remote}: {error:#}"));
            }
            drop(permit);
        });
    }
}

async fn carry(client: &Client, id: &str, remote: u16, local: TcpStream) -> anyhow::Result<()> {
    local.set_nodelay(true)?;
    match Tunnel::open(client, id, remote).await {
        Ok(tunnel) => Ok(tunnel.carry(local).await?),
        Err(error) => {
            // As if the port itself had refused.
            let _ = local.set_zero_linger();
            Err(error.into())
        }
    }
}

/// Prints where a port can be reached with HTTP.
///
/// # Errors
/// The control plane's address has no names below it.
pub fn url(args: &UrlArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let url = address(client.base_url(), &args.id, args.port, args.proxy_domain.as_deref())?;
    output.result(&serde_json::json!({"url": url}), || url.clone());
    Ok(0)
}

/// As published clients build it: the domain asked for, else that of the control plane's own address.
fn address(base_url: &str, id: &str, port: u16, domain: Option<&str>) -> anyhow::Result<String> {
    let base: Uri = base_url.parse().with_context(|| format!("{base_url} is not a URL"))?;
    let scheme = base.scheme_str().unwrap_or("http");
    let host = base.host().unwrap_or_default();
    let with_port = |host: &str| base.port_u16().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let domain = match (domain.filter(|domain| !domain.is_empty()), ip) {
        (Some(domain), _) => domain.to_owned(),
        (None, None) if host == HOSTED.0 => HOSTED.1.to_owned(),
        (None, None) => with_port(host),
        // Every name below localhost is this machine.
        (None, Some(ip)) if ip.is_loopback() => with_port("localhost"),
        (None, Some(ip)) => {
            bail!("{ip} has no names below it; set WRENN_PROXY_DOMAIN to a domain whose names all lead there")
        }
    };
    Ok(format!("{scheme}://{port}-{id}.{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Forward>().map(|f| (f.local.to_string(), f.remote)).ok();
        assert_eq!(read("8080:80"), Some(("127.0.0.1:8080".to_owned(), 80)));
        assert_eq!(read("80"), Some(("127.0.0.1:80".to_owned(), 80)));
        assert_eq!(read("0:5432"), Some(("127.0.0.1:0".to_owned(), 5432)));
        assert_eq!(read("0.0.0.0:1:2"), Some(("0.0.0.0:1".to_owned(), 2)));
        assert_eq!(read("[::1]:1:2"), Some(("[::1]:1".to_owned(), 2)));
        for wrong in ["", ":", "1:", ":1", "a:1", "1:0", "0", "70000:1", "1:2:3", "::1:2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_follow_the_control_planes_unless_a_domain_is_given() {
        let at = |base: &str, domain: Option<&str>| address(base, "cl-1", 80, domain).ok();
        assert_eq!(at("http://localhost:8080/api", None).as_deref(), Some("http://80-cl-1.localhost:8080"));
        assert_eq!(at("https://wrenn.example.com", None).as_deref(), Some("https://80-cl-1.wrenn.example.com"));
        assert_eq!(at("https://app.wrenn.dev", None).as_deref(), Some("https://80-cl-1.wrenn.dev"));
        assert_eq!(at("http://127.0.0.1:8000", None).as_deref(), Some("http://80-cl-1.localhost:8000"));
        assert_eq!(at("http://[::1]:8000", None).as_deref(), Some("http://80-cl-1.localhost:8000"));
        assert_eq!(at("http://10.0.0.1:8000", None), None);
        assert_eq!(at("http://10.0.0.1:8000", Some("x.test:8000")).as_deref(), Some("http://80-cl-1.x.test:8000"));
    }
}
