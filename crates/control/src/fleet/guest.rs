//! A client of envd through the guest relay: processes, files. Streams both ways; buffers nothing.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, ClientConfig, ServerStream};
use futures::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use wrenn_contract::guest::{self, FILES};
use wrenn_contract::host::guest_relay_path;
use wrenn_contract::proto::filesystem::{EntryInfo, FilesystemClient, ListDirRequest, MakeDirRequest, RemoveRequest};
use wrenn_contract::proto::process::__buffa::oneof::process_event::Event as ProtoEvent;
use wrenn_contract::proto::process::__buffa::oneof::process_event::data_event::Output as ProtoOutput;
use wrenn_contract::proto::process::__buffa::oneof::process_input::Input;
use wrenn_contract::proto::process::__buffa::oneof::process_selector::Selector as ProtoSelector;
use wrenn_contract::proto::process::stream_input_request::{DataEvent as InputData, StartEvent as InputStart};
use wrenn_contract::proto::process::{
    CloseStdinRequest, ConnectRequest, ConnectResponse, ConnectResponseView, ListRequest, PTY, ProcessClient,
    ProcessConfig, ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest, SendSignalRequest, Signal,
    StartRequest, StartResponse, StartResponseView, StreamInputRequest, UpdateRequest, pty,
};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::names::{GuestPath, ProcessTag};

use super::FleetError;
use super::relay::{BodyError, RelayBody, RelayFailure, RelayTransport};
use crate::percent::escape_path;

/// Deadline of a short call into a guest.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Largest directory listing taken.
const LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an error body read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// envd in one sandbox.
pub struct GuestClient {
    transport: RelayTransport,
    base: String,
    processes: ProcessClient<RelayTransport>,
    /// Client of processes for answers that last.
    streams: ProcessClient<RelayTransport>,
    files: FilesystemClient<RelayTransport>,
}

/// A process to be started.
#[derive(Debug, Clone)]
pub struct Start {
    pub config: ProcessConfig,
    pub tag: Option<ProcessTag>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<Size>,
    /// A pipe to be fed; else it reads end of file.
    pub stdin: bool,
    /// Whether it outlives the stream that started it.
    pub detach: bool,
}

/// Characters of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub cols: u32,
    pub rows: u32,
}

/// Attributes of a file that is written, besides its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits; those of the file that was there when absent.
    pub mode: Option<u32>,
    /// Time of the last change, Unix milliseconds; now when absent.
    pub modified_ms: Option<u64>,
}

/// Input a process reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    Pipe,
    Terminal,
}

/// How a process is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Pid(u32),
    Tag(ProcessTag),
}

/// Event of a running process.
#[derive(Debug)]
pub enum ProcessEvent {
    Started {
        pid: u32,
    },
    /// Also what a terminal shows.
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Nothing new for a while; the first time after attaching: all that was printed before has come.
    Quiet,
    Ended(Ended),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// 128 plus the signal's number when a signal ended it.
    pub exit_code: i32,
    /// Why it could not run, if so.
    pub error: Option<String>,
}

/// Output of a process. Dropping it ends the process unless it was started detached.
pub struct ProcessStream(Events);

enum Events {
    Started(ServerStream<Incoming, StartResponseView<'static>>),
    Attached(ServerStream<Incoming, ConnectResponseView<'static>>),
}

impl GuestClient {
    pub(super) fn new(
        transport: RelayTransport,
        streams: RelayTransport,
        address: &str,
        sandbox: &SandboxId,
    ) -> Result<Self, FleetError> {
        let base = format!("{address}{}", guest_relay_path(sandbox));
        let uri = base.parse().map_err(|_| FleetError::Nonsense("the host's address is not a URL".to_owned()))?;
        let config = ClientConfig::new(uri);
        Ok(Self {
            processes: ProcessClient::new(transport.clone(), config.clone()),
            streams: ProcessClient::new(streams, config.clone()),
            files: FilesystemClient::new(transport.clone(), config),
            transport,
            base,
        })
    }

    /// Starts a process and streams what it says.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn start(&self, start: Start) -> Result<ProcessStream, FleetError> {
        let request = StartRequest {
            process: start.config.into(),
            tag: start.tag.map(|tag| tag.as_str().to_owned()),
            pty: start.terminal.map(|size| proto_pty(size).into()).unwrap_or_default(),
            stdin: Some(start.stdin),
            detach: Some(start.detach),
            ..Default::default()
        };
        Ok(ProcessStream(Events::Started(self.streams.start(request).await?)))
    }

    /// Attaches to a process: what it printed lately, then what it prints. Dropping the stream leaves the process alone.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn connect(&self, selector: &Selector) -> Result<ProcessStream, FleetError> {
        let request = ConnectRequest { process: proto(selector).into(), ..Default::default() };
        Ok(ProcessStream(Events::Attached(self.streams.connect(request).await?)))
    }

    /// Resizes a process's terminal.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn resize(&self, pid: u32, size: Size) -> Result<(), FleetError> {
        let request = UpdateRequest {
            process: proto(&Selector::Pid(pid)).into(),
            pty: proto_pty(size).into(),
            ..Default::default()
        };
        self.processes.update_with_options(request, short()).await?;
        Ok(())
    }

    /// Processes that run now.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, FleetError> {
        let answer = self.processes.list_with_options(ListRequest::default(), short()).await?;
        Ok(answer.into_owned().processes)
    }

    /// Signals a process and its group.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn signal(&self, selector: &Selector, signal: Signal) -> Result<(), FleetError> {
        let request =
            SendSignalRequest { process: proto(selector).into(), signal: signal.into(), ..Default::default() };
        self.processes.send_signal_with_options(request, short()).await?;
        Ok(())
    }

    /// Feeds a process's standard input. Returns when it took the bytes; a process that reads slowly makes this slow.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn send_input(&self, pid: u32, bytes: Vec<u8>) -> Result<(), FleetError> {
        let request = SendInputRequest {
            process: proto(&Selector::Pid(pid)).into(),
            input: ProcessInput { input: Some(Input::Stdin(bytes)), ..Default::default() }.into(),
            ..Default::default()
        };
        self.processes.send_input(request).await?;
        Ok(())
    }

    /// Feeds a process what a stream yields, as it comes. Returns when it took all of it.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn stream_input<S>(&self, pid: u32, kind: InputKind, bytes: S) -> Result<(), FleetError>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let begin = InputStart { process: proto(&Selector::Pid(pid)).into(), ..Default::default() };
        let pieces = bytes.map(move |bytes| {
            let input = match kind {
                InputKind::Pipe => Input::Stdin(bytes.into()),
                InputKind::Terminal => Input::Pty(bytes.into()),
            };
            let input = ProcessInput { input: Some(input), ..Default::default() };
            InputData { input: input.into(), ..Default::default() }.into()
        });
        let events = futures::stream::once(std::future::ready(begin.into())).chain(pieces);
        let requests = events.map(|event| StreamInputRequest { event: Some(event), ..Default::default() });
        self.streams.stream_input(requests).await?;
        Ok(())
    }

    /// No more input.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn close_stdin(&self, pid: u32) -> Result<(), FleetError> {
        let request = CloseStdinRequest { process: proto(&Selector::Pid(pid)).into(), ..Default::default() };
        self.processes.close_stdin_with_options(request, short()).await?;
        Ok(())
    }

    /// Entries below a directory.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn list_dir(&self, path: &GuestPath, depth: u32) -> Result<Vec<EntryInfo>, FleetError> {
        let request = ListDirRequest { path: path.as_str().to_owned(), depth, ..Default::default() };
        let options = short().with_max_message_size(LIST_BYTES_MAX).with_element_memory_limit(4 * LIST_BYTES_MAX);
        Ok(self.files.list_dir_with_options(request, options).await?.into_owned().entries)
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn make_dir(&self, path: &GuestPath) -> Result<EntryInfo, FleetError> {
        let request = MakeDirRequest { path: path.as_str().to_owned(), ..Default::default() };
        let answer = self.files.make_dir_with_options(request, short()).await?.into_owned();
        answer.entry.into_option().ok_or_else(|| FleetError::Nonsense("no entry".to_owned()))
    }

    /// Removes recursively.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn remove(&self, path: &GuestPath) -> Result<(), FleetError> {
        let request = RemoveRequest { path: path.as_str().to_owned(), ..Default::default() };
        self.files.remove_with_options(request, CallOptions::default().with_timeout(CALL_MAX * 10)).await?;
        Ok(())
    }

    /// Opens a file for reading: its bytes as they come, and their number when envd says it.
    ///
    /// # Errors
    /// When the guest cannot be reached or does not give the file, or the range lies outside of it.
    pub async fn read_file(
        &self,
        path: &GuestPath,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, FleetError> {
        let mut request =
            self.files_request(Method::GET, path, "", Empty::new().map_err(|never| match never {}).boxed())?;
        if let Some(range) = range {
            request.headers_mut().insert(http::header::RANGE, range.clone());
        }
        let sent = tokio::time::timeout(CALL_MAX, self.transport.clone().request(request)).await;
        checked(sent.map_err(|_| FleetError::TimedOut)?).await
    }

    /// Writes a file from a stream. An error in the stream leaves the old file as it was.
    ///
    /// # Errors
    /// When the guest cannot be reached, does not answer in time, or refuses.
    pub async fn write_file<S, E>(&self, path: &GuestPath, attributes: &Attributes, bytes: S) -> Result<(), FleetError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
        E: Into<BodyError> + 'static,
    {
        let frames = bytes.map(|chunk| chunk.map(Frame::data).map_err(Into::into));
        let mut query = String::new();
        if let Some(mode) = attributes.mode {
            query.push_str(&format!("&mode={mode:o}"));
        }
        if let Some(modified) = attributes.modified_ms {
            query.push_str(&format!("&modified_ms={modified}"));
        }
        let request = self.files_request(Method::PUT, path, &query, BodyExt::boxed(StreamBody::new(frames)))?;
        checked(self.transport.clone().request(request).await).await?;
        Ok(())
    }

    fn files_request(
        &self,
        method: Method,
        path: &GuestPath,
        query: &str,
        body: RelayBody,
    ) -> Result<Request<RelayBody>, FleetError> {
        let uri = format!("{}{FILES}?path={}{query}", self.base, escape_path(path.as_str()));
        Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(|_| FleetError::Nonsense("the path cannot be sent".to_owned()))
    }
}

impl ProcessStream {
    /// The next piece of news; none after the end. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the connection to the guest breaks.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, FleetError> {
        loop {
            let event = match &mut self.0 {
                Events::Started(stream) => match stream.message::<StartResponse>().await? {
                    Some(message) => message.to_owned_message().event,
                    None => return Ok(None),
                },
                Events::Attached(stream) => match stream.message::<ConnectResponse>().await? {
                    Some(message) => message.to_owned_message().event,
                    None => return Ok(None),
                },
            };
            let said = match event.into_option().and_then(|event| event.event) {
                Some(ProtoEvent::Start(start)) => ProcessEvent::Started { pid: start.pid },
                Some(ProtoEvent::Data(data)) => match data.output {
                    Some(ProtoOutput::Stdout(bytes)) => ProcessEvent::Stdout(bytes),
                    Some(ProtoOutput::Stderr(bytes)) => ProcessEvent::Stderr(bytes),
                    Some(ProtoOutput::Pty(bytes)) => ProcessEvent::Stdout(bytes),
                    None => continue,
                },
                Some(ProtoEvent::End(end)) => {
                    let exit_code = if end.exited { end.exit_code } else { 128 + signal_number(&end) };
                    ProcessEvent::Ended(Ended { exit_code, error: end.error.clone() })
                }
                Some(ProtoEvent::Keepalive(_)) => ProcessEvent::Quiet,
                None => continue,
            };
            return Ok(Some(said));
        }
    }
}

/// Number of the signal that ended a process: said by our envd, spelled out in words by older ones.
fn signal_number(end: &wrenn_contract::proto::process::process_event::EndEvent) -> i32 {
    const WORDS: [(&str, i32); 12] = [
        ("hangup", 1),
        ("interrupt", 2),
        ("quit", 3),
        ("illegal instruction", 4),
        ("trap", 5),
        ("aborted", 6),
        ("bus error", 7),
        ("floating point exception", 8),
        ("killed", 9),
        ("segmentation fault", 11),
        ("broken pipe", 13),
        ("terminated", 15),
    ];
    if let Some(number) = end.signal {
        return i32::try_from(number).unwrap_or(0);
    }
    let word = end.status.strip_prefix("signal: ").unwrap_or(&end.status);
    let number = word.split(' ').next().and_then(|first| first.parse().ok());
    number.or_else(|| WORDS.iter().find(|(name, _)| word.starts_with(name)).map(|(_, number)| *number)).unwrap_or(0)
}

async fn checked(sent: Result<Response<Incoming>, RelayFailure>) -> Result<Response<Incoming>, FleetError> {
    let response = match sent {
        Ok(response) => response,
        Err(RelayFailure::Relay(relay)) => return Err(FleetError::Relay(relay)),
        Err(RelayFailure::TokenRefused) => return Err(FleetError::TokenRefused),
        Err(failure @ RelayFailure::Transport(_)) => return Err(FleetError::Unreachable(Box::new(failure))),
    };
    if response.status().is_success() {
        return Ok(response);
    }
    let code = match response.status() {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ErrorCode::InvalidArgument,
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::OutOfRange,
        StatusCode::FORBIDDEN => ErrorCode::PermissionDenied,
        StatusCode::CONFLICT => ErrorCode::Aborted,
        StatusCode::INSUFFICIENT_STORAGE | StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::ResourceExhausted,
        _ => ErrorCode::Internal,
    };
    let body = tokio::time::timeout(CALL_MAX, Limited::new(response.into_body(), ERROR_BYTES_MAX).collect()).await;
    let bytes = body.ok().and_then(Result::ok).map(|b| b.to_bytes()).unwrap_or_default();
    let said = serde_json::from_slice::<guest::Error>(&bytes).map(|e| e.message).unwrap_or_default();
    Err(FleetError::answered(code, &said))
}

fn proto(selector: &Selector) -> ProcessSelector {
    let selector = match selector {
        Selector::Pid(pid) => ProtoSelector::Pid(*pid),
        Selector::Tag(tag) => ProtoSelector::Tag(tag.as_str().to_owned()),
    };
    ProcessSelector { selector: Some(selector), ..Default::default() }
}

fn proto_pty(size: Size) -> PTY {
    let size = pty::Size { cols: size.cols, rows: size.rows, ..Default::default() };
    PTY { size: size.into(), ..Default::default() }
}

fn short() -> CallOptions {
    CallOptions::default().with_timeout(CALL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wrenn_contract::proto::process::process_event::EndEvent;

    #[test]
    fn the_signal_is_read_from_its_number_or_from_words() {
        let end =
            |signal: Option<u32>, status: &str| EndEvent { signal, status: status.to_owned(), ..Default::default() };
        for (end, number) in [
            (end(Some(9), "whatever"), 9),
            (end(None, "signal: killed"), 9),
            (end(None, "signal: terminated"), 15),
            (end(None, "signal: 6 (core dumped)"), 6),
            (end(None, "?"), 0),
        ] {
            assert_eq!(signal_number(&end), number, "{end:?}");
        }
    }
}
