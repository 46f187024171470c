//! `process.Process`: requests in, events and answers out. Decides nothing but how to say it.

use std::sync::Arc;

use connectrpc::{
    CompressionPolicy, ConnectError, ConnectRpcService, InboundStream, Limits, RequestContext, Response,
    ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use nix::sys::signal::Signal;
use tokio::time::Instant;
use wrenn_contract::proto::process::__buffa::oneof::process_input::Input as Bytes;
use wrenn_contract::proto::process::__buffa::oneof::process_selector::Selector as Named;
use wrenn_contract::proto::process::__buffa::oneof::stream_input_request::Event;
use wrenn_contract::proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse, PTY, Process,
    ProcessExt, ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest, SendInputResponse, SendSignalRequest,
    SendSignalResponse, StartRequest, StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest,
    UpdateResponse,
};
use wrenn_domain::limits::{GUEST_MESSAGE_BYTES_MAX, PROCESS_TAG_BYTES_MAX};
use wrenn_linux::pty::Size;

use super::input::Kind;
use super::output::From;
use super::patience::keepalive;
use super::reader::{Reader, Terms};
use super::running;
use super::start::Launch;
use super::table::Selector;
use crate::caller;
use crate::state::Envd;

/// Size of a terminal whose caller names none.
const SIZE: Size = Size { cols: 80, rows: 24 };

struct ProcessService {
    envd: Arc<Envd>,
}

/// The service, to be mounted at `/process.Process/`.
pub fn service(envd: Arc<Envd>) -> ConnectRpcService {
    let limits = Limits::default()
        .with_max_request_body_size(GUEST_MESSAGE_BYTES_MAX)
        .with_max_message_size(GUEST_MESSAGE_BYTES_MAX);
    Arc::new(ProcessService { envd })
        .register(connectrpc::Router::new())
        .into_axum_service()
        .with_limits(limits)
        // The way to us is a wire inside one machine; the guest's processor is the user's.
        .with_compression_policy(CompressionPolicy::disabled())
}

// Handlers name what they answer with; nobody else implements or calls this.
#[allow(refining_impl_trait)]
impl Process for ProcessService {
    async fn list(&self, _: RequestContext, _: ServiceRequest<'_, ListRequest>) -> ServiceResult<ListResponse> {
        let processes = self.envd.processes.table.list();
        let info = |process: Arc<running::Process>| ProcessInfo {
            config: process.listed.clone().into(),
            pid: process.pid,
            tag: process.tag.clone(),
            ..Default::default()
        };
        Response::ok(ListResponse { processes: processes.into_iter().map(info).collect(), ..Default::default() })
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let (launch, terms) = self.launch(&ctx, request.to_owned_message())?;
        let processes = self.envd.processes.clone();
        // When the caller leaves meanwhile, what was started is dropped with the answer nobody takes, leash and all.
        let started = tokio::task::spawn_blocking(move || processes.start(launch))
            .await
            .map_err(|error| ConnectError::internal(format!("the start did not finish: {error}")))??;
        let events = started.reader.into_stream(terms, started.leash);
        let responses = events.map(|event| Ok(StartResponse { event: event?.into(), ..Default::default() }));
        Response::ok(Box::pin(responses) as ServiceStream<_>)
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let selector = selector(request.to_owned_message().process.into_option())?;
        let process = self.envd.processes.table.running_or_ended(&selector).ok_or_else(|| unknown(&selector))?;
        let reader = Reader::attach(&process, From::Recent)
            .ok_or_else(|| ConnectError::resource_exhausted("this process has as many readers as it may"))?;
        let events = reader.into_stream(terms(&ctx), None);
        let responses = events.map(|event| Ok(ConnectResponse { event: event?.into(), ..Default::default() }));
        Response::ok(Box::pin(responses) as ServiceStream<_>)
    }

    async fn update(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.into_option())?;
        if let Some(size) = request.pty.as_option().and_then(size) {
            process.resize(size)?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process = None;
        while let Some(request) = requests.next().await {
            match request?.to_owned_message().event {
                Some(Event::Start(start)) => {
                    if process.is_some() {
                        return Err(ConnectError::invalid_argument("the process was named twice"));
                    }
                    process = Some(self.running(start.process.into_option())?);
                }
                Some(Event::Data(data)) => {
                    let process = process
                        .as_ref()
                        .ok_or_else(|| ConnectError::invalid_argument("input before a process was named"))?;
                    let (kind, bytes) = input(data.input.into_option())?;
                    process.input.write_on(kind, &bytes).await?;
                }
                Some(Event::Keepalive(_)) => {}
                None => return Err(ConnectError::invalid_argument("an empty message")),
            }
        }
        match process {
            Some(_) => Response::ok(StreamInputResponse::default()),
            None => Err(ConnectError::invalid_argument("no process was named")),
        }
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.into_option())?;
        let (kind, bytes) = input(request.input.into_option())?;
        process.input.write(kind, &bytes).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.into_option())?;
        let number = request.signal.to_i32();
        match Signal::try_from(number) {
            Ok(Signal::SIGKILL) => process.kill(),
            Ok(signal) => process
                .signal(signal)
                .map_err(|error| ConnectError::internal(format!("could not signal the process: {error}")))?,
            Err(_) => return Err(ConnectError::invalid_argument(format!("no signal has the number {number}"))),
        }
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let process = self.running(request.to_owned_message().process.into_option())?;
        process.input.close().await?;
        Response::ok(CloseStdinResponse::default())
    }
}

impl ProcessService {
    fn launch(&self, ctx: &RequestContext, request: StartRequest) -> Result<(Launch, Terms), ConnectError> {
        let config =
            request.process.into_option().ok_or_else(|| ConnectError::invalid_argument("no process was described"))?;
        let tag = request.tag.filter(|tag| !tag.is_empty());
        if tag.as_ref().is_some_and(|tag| tag.len() > PROCESS_TAG_BYTES_MAX) {
            return Err(ConnectError::invalid_argument(format!(
                "the tag is longer than {PROCESS_TAG_BYTES_MAX} bytes"
            )));
        }
        let defaults = self.envd.identity.defaults();
        let asker = caller::asker(ctx.headers(), config.user.as_deref(), &self.envd.identity);
        let user = asker.map_err(|error| ConnectError::invalid_argument(error.to_string()))?.user;
        let terms = terms(ctx);
        let launch = Launch {
            config,
            user,
            defaults,
            tag,
            terminal: request.pty.as_option().map(|pty| size(pty).unwrap_or(SIZE)),
            stdin: request.stdin.unwrap_or(true),
            detach: request.detach.unwrap_or(false),
            deadline: terms.deadline,
        };
        Ok((launch, terms))
    }

    fn running(&self, named: Option<ProcessSelector>) -> Result<Arc<running::Process>, ConnectError> {
        let selector = selector(named)?;
        self.envd.processes.table.running(&selector).ok_or_else(|| unknown(&selector))
    }
}

fn selector(named: Option<ProcessSelector>) -> Result<Selector, ConnectError> {
    match named.and_then(|named| named.selector) {
        Some(Named::Pid(pid)) if pid > 0 => Ok(Selector::Pid(pid)),
        Some(Named::Tag(tag)) if !tag.is_empty() => Ok(Selector::Tag(tag)),
        Some(_) | None => Err(ConnectError::invalid_argument("no process was named")),
    }
}

fn unknown(selector: &Selector) -> ConnectError {
    ConnectError::not_found(match selector {
        Selector::Pid(pid) => format!("there is no process {pid}"),
        Selector::Tag(tag) => format!("there is no process with the tag {tag:?}"),
    })
}

fn terms(ctx: &RequestContext) -> Terms {
    Terms { deadline: ctx.deadline().map(Instant::from_std), keepalive: keepalive(ctx.headers()) }
}

/// None when a side is 0: a terminal of no width breaks the programs in it.
fn size(pty: &PTY) -> Option<Size> {
    let size = pty.size.as_option()?;
    let side = |side: u32| (side > 0).then(|| u16::try_from(side).unwrap_or(u16::MAX));
    Some(Size { cols: side(size.cols)?, rows: side(size.rows)? })
}

fn input(input: Option<ProcessInput>) -> Result<(Kind, Vec<u8>), ConnectError> {
    match input.and_then(|input| input.input) {
        Some(Bytes::Stdin(bytes)) => Ok((Kind::Pipe, bytes)),
        Some(Bytes::Pty(bytes)) => Ok((Kind::Terminal, bytes)),
        None => Err(ConnectError::invalid_argument("no input was given")),
    }
}
