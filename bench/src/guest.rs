//! The floor's way to a guest: a socket opened in its network namespace, as the agent does, and nothing in between.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

/// Guests have the same address in every namespace.
const ADDRESS: [u8; 4] = [169, 254, 0, 21];
/// envd's port.
pub const ENVD: u16 = 49983;
/// Longest wait for an answer of whoever may be the guest.
const FIND_WAIT: Duration = Duration::from_millis(500);

/// A running guest, found by which envd takes its token: templates are made and spares wait in namespaces of their own.
pub struct Guest {
    namespace: std::fs::File,
    pub token: String,
}

impl Guest {
    /// Finds the namespace of a running capsule.
    pub fn find(wrenn_dir: &Path, id: &str) -> anyhow::Result<Self> {
        let token = token(wrenn_dir, id)?;
        for folder in ["/run/netns", "/var/run/netns"] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                // Those of others come and go meanwhile.
                let Ok(namespace) = std::fs::File::open(entry.path()) else { continue };
                if takes_token(&namespace, &token).unwrap_or(false) {
                    return Ok(Self { namespace, token });
                }
            }
        }
        bail!("no namespace has a guest that answers")
    }

    /// The guest of a capture that will run in this namespace.
    pub fn paused(namespace: &str, capture: &Path) -> anyhow::Result<Self> {
        let manifest = std::fs::read_to_string(capture.join("manifest.json"))?;
        let token = find_token(&serde_json::from_str(&manifest)?).context("no token in the manifest")?;
        Ok(Self { namespace: std::fs::File::open(Path::new("/run/netns").join(namespace))?, token })
    }

    /// A connection to a port of the guest.
    pub fn connect(&self, port: u16) -> anyhow::Result<TcpStream> {
        connect(&self.namespace, port, Duration::from_secs(10))
    }
}

/// Whether envd in this namespace is the one with this token.
fn takes_token(namespace: &std::fs::File, token: &str) -> anyhow::Result<bool> {
    let mut stream = connect(namespace, ENVD, FIND_WAIT)?;
    stream.set_read_timeout(Some(FIND_WAIT))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: guest\r\nx-access-token: {token}\r\nconnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).take(64).read_line(&mut status)?;
    Ok(status.split(' ').nth(1) == Some("200"))
}

/// Opens the socket on a thread of its own that enters the namespace and ends.
fn connect(namespace: &std::fs::File, port: u16, wait: Duration) -> anyhow::Result<TcpStream> {
    let namespace = namespace.try_clone()?;
    std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
        let stream = TcpStream::connect_timeout(&SocketAddr::from((ADDRESS, port)), wait)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
    .join()
    .map_err(|_| anyhow::anyhow!("the connecting thread died"))?
}

/// Reads the token where the agent keeps it: this bench is root on the agent's own machine.
fn token(wrenn_dir: &Path, id: &str) -> anyhow::Result<String> {
    for store in ["store/sandboxes", "sandboxes"] {
        let ledger = wrenn_dir.join(store).join(id).join("ledger.json");
        let Ok(text) = std::fs::read_to_string(&ledger) else { continue };
        let value: serde_json::Value = serde_json::from_str(&text)?;
        return find_token(&value).with_context(|| format!("no token in {}", ledger.display()));
    }
    bail!("no ledger of {id} below {}", wrenn_dir.display())
}

fn find_token(value: &serde_json::Value) -> Option<String> {
    value.as_object()?.iter().find_map(|(key, value)| {
        if key.contains("token") { value.as_str().map(str::to_owned) } else { find_token(value) }
    })
}
