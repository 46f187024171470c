//! From a started VM to a sandbox that may be handed out: wait for envd's datagram, then one handshake.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use buffa::Message;
use http::Request;
use tokio::net::UdpSocket;
use wrenn_contract::guest::{INIT, Init, InitDone, SNAPSHOT_FREEZE, SNAPSHOT_PREPARE};
use wrenn_contract::proto::process::{ProcessConfig, StartRequest};
use wrenn_domain::limits::GUEST_READY_MAX;

use super::dial::{GuestClient, GuestError};
use crate::blocking::blocking;
use crate::sockets::Sockets;

/// Should the datagram be lost, envd is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// First pause after a connection that failed; it doubles up to [`ASK_EVERY`].
const ASK_PAUSE_MIN: Duration = Duration::from_millis(2);
/// Bytes of envd's confirmation.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A handshake is answered in milliseconds; a grown disk may take seconds.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(30);

/// Receives the datagram by which a guest says that envd listens.
pub struct ReadyListener(UdpSocket);

impl ReadyListener {
    /// Listens on the gateway's address; before the VM starts, so that nothing is missed.
    ///
    /// # Errors
    /// The network is gone or its address is taken.
    pub async fn listen(sockets: &Arc<dyn Sockets>) -> Result<Self, GuestError> {
        let its = Arc::clone(sockets);
        let socket = blocking(move || its.ready()).await.and_then(|socket| {
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        socket.map(Self).map_err(GuestError::Listen)
    }

    async fn received(&self) {
        let mut buffer = [0u8; 64];
        // What it says does not matter: only the handshake is believed.
        let _ = self.0.recv(&mut buffer).await;
    }
}

/// Syncing a guest's disk; longer and it is captured as it is.
const PREPARE_WAIT: Duration = Duration::from_secs(5);

/// Stopping a guest's processes: envd waits a quarter of a second at most.
const FREEZE_WAIT: Duration = Duration::from_secs(2);
/// Between two tries to have a guest go on, and how many there are: an hour, after which nobody expects it to answer.
const NOTIFY_PAUSE: Duration = Duration::from_secs(1);
const NOTIFY_TRIES_MAX: u32 = 3600;

/// Most that a guest's clock may be off when it was set: below the 10 ms that are promised.
const CLOCK_OFF_MAX: Duration = Duration::from_millis(9);
/// Most that is added to the time sent, for the time its sending takes.
const CLOCK_LEAD_MAX: Duration = Duration::from_millis(5);
/// Tries to set it, with pauses that begin with this and double. A host on which none is quick enough is too busy for anything that needs a
/// clock so exact, and would be busier with more of them.
const CLOCK_TRIES: u32 = 3;
const CLOCK_PAUSE_MIN: Duration = Duration::from_millis(10);

/// Identity and settings that a guest gets when it starts.
pub struct InitRequest<'a> {
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
/// boots is waited for at its ready listener; a restored one listens already.
///
/// # Errors
/// The guest refuses, confirms another start, or is not ready within [`GUEST_READY_MAX`].
pub async fn wait_ready(
    ready_listener: Option<&ReadyListener>,
    client: &GuestClient,
    init_request: &InitRequest<'_>,
) -> Result<InitDone, GuestError> {
    let mut pause = ASK_PAUSE_MIN;
    let done = tokio::time::timeout(GUEST_READY_MAX, async {
        loop {
            if let Some(ready_listener) = ready_listener {
                let _ = tokio::time::timeout(ASK_EVERY, ready_listener.received()).await;
            }
            let began = Instant::now();
            match handshake(client, init_request).await {
                // Nobody listens yet: the VM is still booting. A guest that never will costs a try now and then.
                Err(GuestError::Call(error)) if error.is_connect() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ASK_EVERY);
                }
                Ok(done) => {
                    client.set_token(init_request.token)?;
                    // The time it was given may be as old as the whole call.
                    if began.elapsed() > CLOCK_OFF_MAX {
                        set_clock(client, init_request.lifecycle).await?;
                    }
                    return Ok(done);
                }
                other => return other,
            }
        }
    });
    let done = done.await.map_err(|_| GuestError::Late(GUEST_READY_MAX.as_secs()))??;
    if done.lifecycle_id.as_deref() != Some(init_request.lifecycle) {
        return Err(GuestError::NotConfirmed);
    }
    Ok(done)
}

async fn handshake(client: &GuestClient, init_request: &InitRequest<'_>) -> Result<InitDone, GuestError> {
    let mut entropy = [0u8; 64];
    getrandom::fill(&mut entropy).map_err(|_| GuestError::Random)?;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let init = Init {
        lifecycle_id: Some(init_request.lifecycle.to_owned()),
        access_token: Some(init_request.token.to_owned()),
        timestamp_ns: Some(now_ns()),
        entropy: Some(hex::encode(entropy)),
        default_user: text(init_request.default_user),
        default_workdir: text(init_request.default_workdir),
        env_vars: init_request.env.clone(),
        sandbox_id: Some(init_request.sandbox_id.clone()),
        template_id: Some(init_request.template.to_owned()),
        proxy_domain: text(init_request.proxy_domain),
        dns: init_request.dns.to_vec(),
        grow_root: init_request.grow_root,
        release: None,
    };
    let request = post_init(&init)?;
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
///
/// # Errors
/// The guest does not answer.
pub async fn warm_up(client: &GuestClient) -> Result<(), GuestError> {
    let process =
        ProcessConfig { cmd: "/bin/sh".into(), args: vec!["-c".into(), "/bin/true".into()], ..Default::default() };
    let message = StartRequest { process: process.into(), ..Default::default() }.encode_to_vec();
    // One message of a Connect stream: a byte of flags, four of length. Source: connectrpc.com/docs/protocol.
    let length = u32::try_from(message.len()).map_err(|error| GuestError::Request(Box::new(error)))?;
    let mut body = vec![0u8];
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&message);
    let request = Request::post("/process.Process/Start")
        .header("content-type", "application/connect+proto")
        .header("connect-protocol-version", "1")
        .body(Body::from(body))
        .map_err(|error| GuestError::Request(Box::new(error)))?;
    let run = async {
        let response = client.send(request).await?;
        axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        Ok(())
    };
    tokio::time::timeout(HANDSHAKE_WAIT, run).await.unwrap_or(Err(GuestError::Late(HANDSHAKE_WAIT.as_secs())))
}

/// Lets the guest write out what it holds back, before it stands still. A guest that does not answer in time is captured as it is.
pub async fn prepare_capture(client: &GuestClient) {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(SNAPSHOT_PREPARE);
    match tokio::time::timeout(PREPARE_WAIT, client.send(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => {}
        _ => tracing::warn!("a guest did not prepare for its capture in time"),
    }
}

/// Stops every process of the guest but envd, right before its VM is paused for a capture: a guest restored from it is given entropy,
/// clock, token and names before any of them runs. A guest that does not answer in time is captured as it is: it has stopped envd, or
/// the host is too busy, and neither may keep a sandbox from being paused.
pub async fn freeze(client: &GuestClient) {
    let path = format!("{SNAPSHOT_FREEZE}?number={}", client.next_freeze_number());
    let frozen = async {
        let request = Request::post(path).body(Body::empty());
        let request = request.map_err(|error| GuestError::Request(Box::new(error)))?;
        let response = client.send(request).await?;
        let status = response.status();
        // Read to its end, so that the next call finds the connection free.
        axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        Ok::<_, GuestError>(status)
    };
    match tokio::time::timeout(FREEZE_WAIT, frozen).await {
        Ok(Ok(status)) if status.is_success() => {}
        other => tracing::warn!(?other, "a guest's processes did not stop for its capture"),
    }
}

/// Tells a guest that was captured and goes on that it is still the same one, and what time it is, and lets its processes go on. A guest
/// that does not answer is asked again until it does, is captured again, or is no more: its processes stand still meanwhile.
///
/// Returns when it went on, or gave no answer.
pub async fn notify_resumed(client: &Arc<GuestClient>, lifecycle: &str) -> Instant {
    if let Ok(Ok(went_on)) = tokio::time::timeout(PREPARE_WAIT, set_clock(client, lifecycle)).await {
        return went_on;
    }
    tracing::warn!("a guest did not answer after its capture; it is asked again");
    let (client, lifecycle, number) = (Arc::clone(client), lifecycle.to_owned(), client.freeze_number());
    tokio::spawn(async move {
        let released = async {
            for _ in 0..NOTIFY_TRIES_MAX {
                tokio::time::sleep(NOTIFY_PAUSE).await;
                // A later freeze has a release of its own.
                if client.freeze_number() != number {
                    return;
                }
                if let Ok(Ok(_)) = tokio::time::timeout(PREPARE_WAIT, set_clock(&client, &lifecycle)).await {
                    return tracing::info!("a guest that did not answer after its capture goes on");
                }
            }
            tracing::error!("a guest never answered after its capture; its processes may stand still");
        };
        tokio::select! {
            biased;
            () = client.gone().cancelled() => {}
            () = released => {}
        }
    });
    Instant::now()
}

/// Sets a guest's clock until that is sure to have been right: the time sent is as old as the call, so that only a quick one counts.
/// Returns when the first call was answered.
async fn set_clock(client: &GuestClient, lifecycle: &str) -> Result<Instant, GuestError> {
    let (mut lead, mut pause, mut tries) = (Duration::ZERO, CLOCK_PAUSE_MIN, 0);
    let release = Some(client.freeze_number());
    let mut answered = None;
    loop {
        let sent = now_ns().saturating_add(i64::try_from(lead.as_nanos()).unwrap_or(0));
        let lifecycle_id = Some(lifecycle.to_owned());
        let init = Init { lifecycle_id, timestamp_ns: Some(sent), release, ..Init::default() };
        let request = post_init(&init)?;
        let began = Instant::now();
        let response = client.send(request).await?;
        let (took, status) = (began.elapsed(), response.status());
        // Read to its end, so that the next try finds the connection free.
        axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(GuestError::Refused { status: status.as_u16(), text: "the time".into() });
        }
        let answered = *answered.get_or_insert_with(Instant::now);
        // It was set at some moment of the call: too early by what the time led, or too late by the rest of the call.
        let off = took.saturating_sub(lead);
        if off <= CLOCK_OFF_MAX {
            return Ok(answered);
        }
        tries += 1;
        if tries == CLOCK_TRIES {
            tracing::warn!(off_ms = off.as_millis(), "a guest's clock may be off: it answers slowly");
            return Ok(answered);
        }
        lead = (took / 2).min(CLOCK_LEAD_MAX);
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

fn post_init(init: &Init) -> Result<Request<Body>, GuestError> {
    let body = serde_json::to_vec(init).map_err(|error| GuestError::Request(Box::new(error)))?;
    let request = Request::post(INIT).header("content-type", "application/json").body(Body::from(body));
    request.map_err(|error| GuestError::Request(Box::new(error)))
}

/// The host's clock, Unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
