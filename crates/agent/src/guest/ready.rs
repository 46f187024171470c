//! From a started VM to a sandbox that may be handed out: wait for envd's datagram, then one handshake.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::time::{Duration, Instant};

use axum::body::Body;
use buffa::Message;
use http::Request;
use tokio::net::UdpSocket;
use wrenn_contract::guest::{GATEWAY_ADDR, INIT, Init, InitDone, READY_PORT, SNAPSHOT_PREPARE};
use wrenn_contract::proto::process::{ProcessConfig, StartRequest};
use wrenn_domain::limits::GUEST_READY_MAX;
use wrenn_linux::netns::Netns;

use super::dial::{GuestClient, GuestError};

/// Should the datagram be lost, envd is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of envd's confirmation.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A handshake is answered in milliseconds; a grown disk may take seconds.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(30);

/// Hears the guest say that envd listens.
pub struct Beacon(UdpSocket);

impl Beacon {
    /// Listens on the gateway's address; before the VM starts, so that nothing is missed.
    pub fn listen(netns: &Netns) -> Result<Self, GuestError> {
        let socket = netns.run(|| StdSocket::bind(SocketAddr::from((GATEWAY_ADDR, READY_PORT))));
        let socket = socket.and_then(|socket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        socket.map(Self).map_err(GuestError::Listen)
    }

    async fn heard(&self) {
        let mut buffer = [0u8; 64];
        // What it says does not matter: only the handshake is believed.
        let _ = self.0.recv(&mut buffer).await;
    }
}

/// Syncing a guest's disk; longer and it is captured as it is.
const PREPARE_WAIT: Duration = Duration::from_secs(5);

/// How far a guest's clock may be off when it was set: below the 10 ms that are promised.
const CLOCK_OFF_MAX: Duration = Duration::from_millis(9);
/// Most that is added to the time told, for the way it has to go.
const CLOCK_LEAD_MAX: Duration = Duration::from_millis(5);
/// Tries to tell it, with pauses that begin with this and double. A host on which none is quick enough is too busy for anything that needs a
/// clock so exact, and would be busier with more of them.
const CLOCK_TRIES: u32 = 3;
const CLOCK_PAUSE_MIN: Duration = Duration::from_millis(10);

/// What the guest is told.
pub struct Greeting<'a> {
    pub sandbox_id: String,
    pub template: &'a str,
    /// The token from now on; until then the client's own counts.
    pub token: &'a str,
    /// Names this run of the VM: what must not be shared between copies is renewed.
    pub lifecycle: &'a str,
    pub default_user: &'a str,
    pub default_workdir: &'a str,
    pub env: &'a BTreeMap<String, String>,
    pub dns: &'a [IpAddr],
    pub proxy_domain: &'a str,
    /// The disk is larger than the file system on it may be.
    pub grow_root: bool,
}

/// Waits for envd and hands over identity, token, entropy and clock. Only its confirmation makes a sandbox ready. A guest that
/// boots is waited for by its beacon; a restored one listens already.
pub async fn wait_ready(
    beacon: Option<&Beacon>,
    client: &GuestClient,
    greeting: &Greeting<'_>,
) -> Result<InitDone, GuestError> {
    let done = tokio::time::timeout(GUEST_READY_MAX, async {
        loop {
            if let Some(beacon) = beacon {
                let _ = tokio::time::timeout(ASK_EVERY, beacon.heard()).await;
            }
            let asked = Instant::now();
            match handshake(client, greeting).await {
                // Nobody listens yet: the VM is still booting.
                Err(GuestError::Call(error)) if error.is_connect() => {}
                Ok(done) => {
                    client.set_token(greeting.token);
                    // The time it was told may be as old as the whole call.
                    if asked.elapsed() > CLOCK_OFF_MAX {
                        set_clock(client, greeting.lifecycle).await?;
                    }
                    return Ok(done);
                }
                other => return other,
            }
        }
    });
    let done = done.await.map_err(|_| GuestError::Late(GUEST_READY_MAX.as_secs()))??;
    if done.lifecycle_id.as_deref() != Some(greeting.lifecycle) {
        return Err(GuestError::NotConfirmed);
    }
    Ok(done)
}

async fn handshake(client: &GuestClient, greeting: &Greeting<'_>) -> Result<InitDone, GuestError> {
    let mut entropy = [0u8; 64];
    getrandom::fill(&mut entropy).map_err(|error| GuestError::Listen(std::io::Error::other(error.to_string())))?;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let init = Init {
        lifecycle_id: Some(greeting.lifecycle.to_owned()),
        access_token: Some(greeting.token.to_owned()),
        timestamp_ns: Some(now_ns()),
        entropy: Some(hex::encode(entropy)),
        default_user: text(greeting.default_user),
        default_workdir: text(greeting.default_workdir),
        env_vars: greeting.env.clone(),
        sandbox_id: Some(greeting.sandbox_id.clone()),
        template_id: Some(greeting.template.to_owned()),
        proxy_domain: text(greeting.proxy_domain),
        dns: greeting.dns.to_vec(),
        grow_root: greeting.grow_root,
    };
    let request = init_request(&init);
    let answer = async {
        let response = client.send(request).await?;
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return Err(GuestError::Refused { status: status.as_u16(), text });
        }
        serde_json::from_slice(&body).map_err(|_| GuestError::NotConfirmed)
    };
    tokio::time::timeout(HANDSHAKE_WAIT, answer).await.unwrap_or(Err(GuestError::Late(HANDSHAKE_WAIT.as_secs())))
}

/// Has the guest run a command once that changes nothing: what that needs of kernel, envd and shell is in memory from then on, and
/// translated where the processor is emulated.
pub async fn rehearse(client: &GuestClient) -> Result<(), GuestError> {
    let process =
        ProcessConfig { cmd: "/bin/sh".into(), args: vec!["-c".into(), "/bin/true".into()], ..Default::default() };
    let message = StartRequest { process: process.into(), ..Default::default() }.encode_to_vec();
    // One message of a Connect stream: a byte of flags, four of length. Source: connectrpc.com/docs/protocol.
    let mut body = vec![0u8];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(&message);
    let request = Request::post("/process.Process/Start")
        .header("content-type", "application/connect+proto")
        .header("connect-protocol-version", "1")
        .body(Body::from(body));
    let run = async {
        let response = client.send(request.unwrap_or_default()).await?;
        axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        Ok(())
    };
    tokio::time::timeout(HANDSHAKE_WAIT, run).await.unwrap_or(Err(GuestError::Late(HANDSHAKE_WAIT.as_secs())))
}

/// Lets the guest write out what it holds back, before it stands still. A guest that does not answer in time is captured as it is.
pub async fn prepare(client: &GuestClient) {
    let request = Request::post(SNAPSHOT_PREPARE).body(Body::empty()).unwrap_or_default();
    match tokio::time::timeout(PREPARE_WAIT, client.send(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => {}
        _ => tracing::warn!("a guest did not prepare for its capture in time"),
    }
}

/// Tells a guest that was captured and goes on that it is still the same one, and what time it is.
pub async fn go_on(client: &GuestClient, lifecycle: &str) {
    if !matches!(tokio::time::timeout(PREPARE_WAIT, set_clock(client, lifecycle)).await, Ok(Ok(()))) {
        tracing::warn!("a guest did not answer after its capture");
    }
}

/// Tells a guest the time until it is sure to have taken it over right: the time told is as old as the call, so that only a quick one
/// counts.
async fn set_clock(client: &GuestClient, lifecycle: &str) -> Result<(), GuestError> {
    let (mut lead, mut pause, mut tries) = (Duration::ZERO, CLOCK_PAUSE_MIN, 0);
    loop {
        let told = now_ns().saturating_add(i64::try_from(lead.as_nanos()).unwrap_or(0));
        let init = Init { lifecycle_id: Some(lifecycle.to_owned()), timestamp_ns: Some(told), ..Init::default() };
        let request = init_request(&init);
        let asked = Instant::now();
        let response = client.send(request).await?;
        let (took, status) = (asked.elapsed(), response.status());
        // Read to its end, so that the next try finds the connection free.
        axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(GuestError::Refused { status: status.as_u16(), text: "the time".into() });
        }
        // It was set at some moment of the call: too early by what the time led, or too late by the rest of the call.
        let off = took.saturating_sub(lead);
        if off <= CLOCK_OFF_MAX {
            return Ok(());
        }
        tries += 1;
        if tries == CLOCK_TRIES {
            tracing::warn!(off_ms = off.as_millis(), "a guest's clock may be off: it answers slowly");
            return Ok(());
        }
        lead = (took / 2).min(CLOCK_LEAD_MAX);
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

fn init_request(init: &Init) -> Request<Body> {
    let body = serde_json::to_vec(init).unwrap_or_default();
    let request = Request::post(INIT).header("content-type", "application/json").body(Body::from(body));
    request.unwrap_or_default()
}

/// The host's clock, Unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
