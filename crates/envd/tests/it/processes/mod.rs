//! The process service as its callers see it.

mod ending;
mod input;
mod output;
mod refusals;
mod running;
mod terminals;
mod users;

use std::collections::BTreeMap;

use connectrpc::client::{CallOptions, HttpClient, ServerStream};
use connectrpc::{ConnectError, ErrorCode};
use hyper::body::Incoming;
use wrenn_contract::proto::process::__buffa::oneof::process_event::Event as Kind;
use wrenn_contract::proto::process::__buffa::oneof::process_event::data_event::Output;
use wrenn_contract::proto::process::__buffa::oneof::process_input::Input;
use wrenn_contract::proto::process::__buffa::oneof::process_selector::Selector;
use wrenn_contract::proto::process::process_event::EndEvent;
use wrenn_contract::proto::process::pty::Size;
use wrenn_contract::proto::process::{
    CloseStdinRequest, ConnectRequest, ConnectResponse, ConnectResponseView, ListRequest, PTY, ProcessClient,
    ProcessConfig, ProcessEvent, ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest, SendSignalRequest,
    Signal, StartRequest, StartResponse, StartResponseView, UpdateRequest,
};

use crate::envd::{Envd, SOON, eventually};

pub type Client = ProcessClient<HttpClient>;

/// A call of Start or Connect.
pub enum Events {
    Started(ServerStream<Incoming, StartResponseView<'static>>),
    Connected(ServerStream<Incoming, ConnectResponseView<'static>>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Start(u32),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Pty(Vec<u8>),
    End(End),
    KeepAlive,
}

#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub exit_code: i32,
    pub exited: bool,
    pub status: String,
    pub signal: Option<u32>,
}

/// Everything a process said.
#[derive(Debug, Default)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    pub end: Option<End>,
}

impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn code(&self) -> i32 {
        self.end.as_ref().expect("an end").exit_code
    }
}

impl Events {
    /// The next event; none after the end.
    pub async fn next(&mut self) -> Result<Option<Event>, ConnectError> {
        let event: Option<ProcessEvent> = match self {
            Events::Started(stream) => tokio::time::timeout(SOON, stream.message::<StartResponse>())
                .await
                .expect("in time")?
                .and_then(|message| message.to_owned_message().event.into_option()),
            Events::Connected(stream) => tokio::time::timeout(SOON, stream.message::<ConnectResponse>())
                .await
                .expect("in time")?
                .and_then(|message| message.to_owned_message().event.into_option()),
        };
        let Some(event) = event else { return Ok(None) };
        Ok(Some(match event.event.expect("an event") {
            Kind::Start(start) => Event::Start(start.pid),
            Kind::Data(data) => match data.output.expect("output") {
                Output::Stdout(bytes) => Event::Stdout(bytes),
                Output::Stderr(bytes) => Event::Stderr(bytes),
                Output::Pty(bytes) => Event::Pty(bytes),
            },
            Kind::End(end) => {
                let EndEvent { exit_code, exited, status, signal, error, .. } = *end;
                assert_eq!(error, None);
                Event::End(End { exit_code, exited, status, signal })
            }
            Kind::Keepalive(_) => Event::KeepAlive,
        }))
    }

    /// The start, which must come first.
    pub async fn pid(&mut self) -> u32 {
        match self.next().await.expect("no error") {
            Some(Event::Start(pid)) if pid > 1 => pid,
            other => panic!("not a start: {other:?}"),
        }
    }

    /// Everything to the end, which must come, once, last.
    pub async fn rest(&mut self) -> Said {
        let mut said = Said::default();
        while let Some(event) = self.next().await.expect("no error") {
            assert!(said.end.is_none(), "after the end: {event:?}");
            match event {
                Event::Start(_) => panic!("a second start"),
                Event::Stdout(bytes) => said.stdout.extend(bytes),
                Event::Stderr(bytes) => said.stderr.extend(bytes),
                Event::Pty(bytes) => said.pty.extend(bytes),
                Event::End(end) => said.end = Some(end),
                Event::KeepAlive => {}
            }
        }
        assert!(said.end.is_some(), "no end: {said:?}");
        said
    }

    /// Reads on until standard output or the terminal said all of this since the call.
    pub async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next().await.expect("no error") {
                Some(Event::Stdout(bytes) | Event::Pty(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Event::Stderr(_) | Event::KeepAlive) => {}
                other => panic!("{other:?} before {text:?}, after {seen:?}"),
            }
        }
        seen
    }
}

/// A program with arguments.
pub fn program(cmd: &str, args: &[&str]) -> StartRequest {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let config = ProcessConfig { cmd: cmd.to_owned(), args, ..Default::default() };
    StartRequest { process: config.into(), ..Default::default() }
}

/// A script, run by plain sh and nothing around it.
pub fn script(text: &str) -> StartRequest {
    program("/bin/sh", &["-c", text])
}

/// The same with changes.
pub fn with(mut request: StartRequest, change: impl FnOnce(&mut StartRequest, &mut ProcessConfig)) -> StartRequest {
    let mut config = request.process.into_option().expect("a process");
    request.process = Default::default();
    change(&mut request, &mut config);
    request.process = config.into();
    request
}

pub fn as_user(user: &str, request: StartRequest) -> StartRequest {
    with(request, |_, config| config.user = Some(user.to_owned()))
}

pub fn tagged(tag: &str, request: StartRequest) -> StartRequest {
    with(request, |request, _| request.tag = Some(tag.to_owned()))
}

pub fn detached(request: StartRequest) -> StartRequest {
    with(request, |request, _| request.detach = Some(true))
}

pub fn on_terminal(cols: u32, rows: u32, request: StartRequest) -> StartRequest {
    with(request, |request, _| request.pty = pty(cols, rows).into())
}

pub fn pty(cols: u32, rows: u32) -> PTY {
    PTY { size: Size { cols, rows, ..Default::default() }.into(), ..Default::default() }
}

/// Starts and does not look at what comes.
pub async fn start(client: &Client, request: StartRequest) -> Events {
    Events::Started(client.start(request).await.expect("starts"))
}

/// Runs to the end.
pub async fn run(envd: &Envd, request: StartRequest) -> Said {
    let mut events = start(&envd.processes(), request).await;
    events.pid().await;
    events.rest().await
}

/// Starts what cannot be: the refusal.
pub async fn refused(client: &Client, request: StartRequest) -> ConnectError {
    match client.start(request).await {
        Err(error) => error,
        Ok(stream) => match Events::Started(stream).next().await {
            Err(error) => error,
            Ok(event) => panic!("not refused: {event:?}"),
        },
    }
}

pub async fn connect(client: &Client, selector: ProcessSelector) -> Result<Events, ConnectError> {
    let request = ConnectRequest { process: selector.into(), ..Default::default() };
    Ok(Events::Connected(client.connect(request).await?))
}

pub fn pid(pid: u32) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() }
}

pub fn tag(tag: &str) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Tag(tag.to_owned())), ..Default::default() }
}

pub async fn feed(client: &Client, to: ProcessSelector, bytes: impl Into<Vec<u8>>) -> Result<(), ConnectError> {
    send(client, to, Input::Stdin(bytes.into())).await
}

pub async fn type_in(client: &Client, to: ProcessSelector, bytes: impl Into<Vec<u8>>) -> Result<(), ConnectError> {
    send(client, to, Input::Pty(bytes.into())).await
}

async fn send(client: &Client, to: ProcessSelector, input: Input) -> Result<(), ConnectError> {
    let input = ProcessInput { input: Some(input), ..Default::default() };
    let request = SendInputRequest { process: to.into(), input: input.into(), ..Default::default() };
    client.send_input(request).await.map(drop)
}

pub async fn close(client: &Client, to: ProcessSelector) -> Result<(), ConnectError> {
    let request = CloseStdinRequest { process: to.into(), ..Default::default() };
    client.close_stdin(request).await.map(drop)
}

pub async fn signal(client: &Client, to: ProcessSelector, signal: Signal) -> Result<(), ConnectError> {
    let request = SendSignalRequest { process: to.into(), signal: signal.into(), ..Default::default() };
    client.send_signal(request).await.map(drop)
}

pub async fn resize(client: &Client, to: ProcessSelector, cols: u32, rows: u32) -> Result<(), ConnectError> {
    let request = UpdateRequest { process: to.into(), pty: pty(cols, rows).into(), ..Default::default() };
    client.update(request).await.map(drop)
}

pub async fn list(client: &Client) -> Vec<ProcessInfo> {
    client.list(ListRequest::default()).await.expect("lists").into_owned().processes
}

pub async fn nothing_runs(envd: &Envd) {
    let client = envd.processes();
    eventually("nothing runs", async || list(&client).await.is_empty()).await;
}

/// Whether a process lives: ended ones that wait to be reaped do not.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub fn code(result: Result<(), ConnectError>) -> Option<ErrorCode> {
    result.err().map(|error| error.code)
}

pub fn envs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn within(timeout_ms: u64) -> CallOptions {
    CallOptions::default().with_timeout(std::time::Duration::from_millis(timeout_ms))
}
