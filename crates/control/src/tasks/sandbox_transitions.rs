//! Drives sandboxes that are starting, pausing or resuming: asks the host, again until a report says that it is done or the host refuses.
//!
//! ```text
//! claimed -> the host is asked -> accepted: its report is taken; still under way: asked again later, in case its report is lost
//!                              -> away: tried again (a start is given up after a while)
//!                              -> refused: the row goes where the transition's table says
//! ```
//! A pause or resume that does not work leaves the sandbox as it was; nothing here ever ends one. Every call is repeatable, so a step that
//! was killed is simply done again.

use std::sync::Arc;

use connectrpc::ErrorCode as Code;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_domain::{ErrorCode, SandboxErrorCode};
use wrenn_store::StoreError;
use wrenn_store::pg::{PlacedSandbox, Sandbox, SandboxError, Work};

use super::work::{self, Next, settle};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::fleet::{FleetError, HostReport};
use crate::service::reports;

/// Transition of sandboxes: what differs between starting, pausing and resuming.
struct Transition {
    work: Work,
    /// The state of a sandbox while the host is on its way.
    during: SandboxState,
    claimed: FaultPoint,
    called: FaultPoint,
    noted: FaultPoint,
    /// Judges a failed call.
    judge: fn(&Context, &Sandbox, &FleetError) -> Verdict,
}

/// Verdict on a failed call.
enum Verdict {
    TryAgain,
    /// The host will not do it.
    Refused(SandboxEvent, SandboxError),
}

static START: Transition = Transition {
    work: Work::Start,
    during: SandboxState::Starting,
    claimed: FaultPoint::StartClaimed,
    called: FaultPoint::StartCalled,
    noted: FaultPoint::StartNoted,
    judge: judge_start,
};

static PAUSE: Transition = Transition {
    work: Work::Pause,
    during: SandboxState::Pausing,
    claimed: FaultPoint::PauseClaimed,
    called: FaultPoint::PauseCalled,
    noted: FaultPoint::PauseNoted,
    judge: judge_pause,
};

static RESUME: Transition = Transition {
    work: Work::Resume,
    during: SandboxState::Resuming,
    claimed: FaultPoint::ResumeClaimed,
    called: FaultPoint::ResumeCalled,
    noted: FaultPoint::ResumeNoted,
    judge: judge_resume,
};

pub(super) async fn run_starts(ctx: Arc<Context>) {
    run(ctx, &START).await;
}

pub(super) async fn run_pauses(ctx: Arc<Context>) {
    run(ctx, &PAUSE).await;
}

pub(super) async fn run_resumes(ctx: Arc<Context>) {
    run(ctx, &RESUME).await;
}

async fn run(ctx: Arc<Context>, transition: &'static Transition) {
    work::run(ctx, transition.work, move |ctx, placed| drive(ctx, placed, transition)).await;
}

async fn drive(ctx: Arc<Context>, placed: PlacedSandbox, transition: &'static Transition) {
    let id = placed.sandbox.id;
    ctx.faults.reach(transition.claimed).await;
    let asked = ask(&ctx, &placed, transition.work).await;
    ctx.faults.reach(transition.called).await;
    let next = match asked {
        Ok(report) => accepted(&ctx, placed.sandbox, &report, transition.during).await,
        Err(error) => failed(&ctx, &placed.sandbox, &error, transition).await,
    };
    ctx.faults.reach(transition.noted).await;
    settle(&ctx, transition.work, id, next).await;
}

async fn ask(ctx: &Context, placed: &PlacedSandbox, work: Work) -> Result<HostReport, FleetError> {
    let Some(address) = &placed.host_address else {
        return Err(FleetError::Nonsense("the sandbox has no host".to_owned()));
    };
    // The lease outlasts a call, so no two control planes ask at once; and if they did, the host answers both the same.
    let host = ctx.fleet.host(address)?;
    match work {
        Work::Start => host.create_sandbox(&placed.sandbox).await,
        Work::Pause => host.pause_sandbox(&placed.sandbox).await,
        Work::Resume => host.resume_sandbox(&placed.sandbox).await,
        Work::Stop => host.delete_sandbox(placed.sandbox.id).await,
    }
}

async fn accepted(
    ctx: &Context,
    sandbox: Sandbox,
    report: &HostReport,
    during: SandboxState,
) -> Result<Next, StoreError> {
    let row = reports::take(ctx, sandbox, report).await?;
    Ok(match row {
        Some(row) if row.state == during => Next::Recheck,
        _ => Next::Over,
    })
}

async fn failed(
    ctx: &Context,
    sandbox: &Sandbox,
    error: &FleetError,
    transition: &Transition,
) -> Result<Next, StoreError> {
    let (id, act) = (sandbox.id, transition.work);
    match (transition.judge)(ctx, sandbox, error) {
        Verdict::TryAgain => {
            tracing::warn!(sandbox = %id, ?act, error = %chain(error), "the host of {id} cannot do it now; trying again");
            Ok(Next::Retry(sandbox.attempts))
        }
        Verdict::Refused(event, why) => {
            tracing::warn!(sandbox = %id, ?act, code = ?why.code, error = %chain(error), "the host of {id} does not do it: {}", why.message);
            let noted = reports::take_event(ctx, id, sandbox, event, Some(why)).await?;
            // Not noted: somebody changed the row meanwhile, and if it still waits for this it is asked for again.
            Ok(if noted { Next::Over } else { Next::Recheck })
        }
    }
}

fn judge_start(ctx: &Context, sandbox: &Sandbox, error: &FleetError) -> Verdict {
    // A clock that was set back makes the age negative: it then counts as new.
    let age = (chrono::Utc::now() - sandbox.created_at).to_std().unwrap_or_default();
    let (code, text) = match error {
        error if error.is_away() && age < ctx.tuning.create_give_up => return Verdict::TryAgain,
        error if error.is_away() => {
            (ErrorCode::HostUnavailable, "the host could not be reached; create the capsule again")
        }
        FleetError::Answered { code: Code::ResourceExhausted, .. } => (
            ErrorCode::NoHostsAvailable,
            "the host had no room left, in memory or on its disk; delete capsules, free some space on it, or ask for less",
        ),
        FleetError::Answered { code: Code::NotFound, .. } => {
            (ErrorCode::NotFound, "the host no longer holds the template; try again or use another one")
        }
        FleetError::Answered { code: Code::InvalidArgument, .. } => {
            (ErrorCode::InvalidRequest, "the host refused the sizes or the template; try other ones")
        }
        // Deleted there before it was created: the delete in the database will say so too.
        FleetError::Answered { code: Code::FailedPrecondition, .. } => {
            (ErrorCode::Conflict, "the capsule was deleted while it was being created")
        }
        _ => (ErrorCode::AgentError, "the host could not make the capsule; try again"),
    };
    Verdict::Refused(SandboxEvent::Failed, SandboxError::ended(text, code))
}

fn judge_pause(_ctx: &Context, _sandbox: &Sandbox, error: &FleetError) -> Verdict {
    let why = match error {
        error if is_away_or_lost(error) => return Verdict::TryAgain,
        FleetError::Answered { code: Code::ResourceExhausted, .. } => {
            "the host has no room for its memory; delete something and try again"
        }
        _ => "the host refused; try again",
    };
    let why = SandboxError::new(format!("the pause did not work: {why}"), SandboxErrorCode::PauseFailed);
    Verdict::Refused(SandboxEvent::PauseFailed, why)
}

fn judge_resume(_ctx: &Context, sandbox: &Sandbox, error: &FleetError) -> Verdict {
    let why = match error {
        error if is_away_or_lost(error) => return Verdict::TryAgain,
        FleetError::Answered { code: Code::ResourceExhausted, .. } => {
            "the host has no room to run it now; try again later"
        }
        _ => "the host refused; try again",
    };
    let why = SandboxError::new(format!("the resume did not work: {why}"), SandboxErrorCode::ResumeFailed);
    // It goes back to what it was: crashed with its disk, or paused.
    let event = if sandbox.disk_kept { SandboxEvent::Crashed } else { SandboxEvent::ResumeFailed };
    Verdict::Refused(event, why)
}

/// The host is away, or lost the sandbox: then the comparison of host and rows finds that out.
fn is_away_or_lost(error: &FleetError) -> bool {
    error.is_away() || matches!(error, FleetError::Answered { code: Code::NotFound, .. })
}
