//! Named steps at which a test may end this control plane, to prove that nothing is lost there.
//!
//! In production no hook is set and reaching a point costs one branch. A new step of any act gets a name
//! here; the fault test walks [`FaultPoint::ALL`].

use std::sync::Arc;

use futures::future::BoxFuture;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A moment between two steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FaultPoint { $($(#[$doc])* $name,)* }

        impl FaultPoint {
            /// All of them, in the order a life passes them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

points! {
    /// A create was parsed and allowed; nothing is written.
    CreateAccepted,
    /// The row stands; nobody drives it yet.
    CreateStored,
    /// The starter holds the row; the host was not asked.
    StartClaimed,
    /// The host was asked and answered; nothing of it is written.
    StartCalled,
    /// The answer is written; the row is not yet given back.
    StartNoted,
    /// The host reported something new; it is not written.
    ReportReceived,
    /// A pause was parsed; nothing is written.
    PauseAccepted,
    /// The row is pausing; nobody drives it yet.
    PauseStored,
    /// The pauser holds the row; the host was not asked.
    PauseClaimed,
    /// The host was asked and answered; nothing of it is written.
    PauseCalled,
    /// The answer is written; the row is not yet given back.
    PauseNoted,
    /// A resume was parsed; nothing is written.
    ResumeAccepted,
    /// The row is resuming; nobody drives it yet.
    ResumeStored,
    /// The resumer holds the row; the host was not asked.
    ResumeClaimed,
    /// The host was asked and answered; nothing of it is written.
    ResumeCalled,
    /// The answer is written; the row is not yet given back.
    ResumeNoted,
    /// A snapshot was parsed and allowed; nothing is written.
    SnapshotAccepted,
    /// The name is reserved and the job stands; nobody drives it yet.
    SnapshotStored,
    /// The snapshotter holds the job; the host was not asked.
    CaptureClaimed,
    /// The host wrote the snapshot and answered; nothing of it is written here.
    CaptureCalled,
    /// The template is ready and the sandbox back; the task has not gone on.
    CaptureNoted,
    /// A template's delete was parsed and allowed; nothing is written.
    TemplateDeleteAccepted,
    /// The template is gone; nobody removes its files yet.
    TemplateDeleteStored,
    /// The discarder holds the job; the host was not asked.
    DiscardClaimed,
    /// The host removed the files; the job is still there.
    DiscardCalled,
    /// A fork was parsed and allowed; nothing is written.
    ForkAccepted,
    /// The children's rows and the job stand; nobody drives it yet.
    ForkStored,
    /// The forker holds the job; the host was not asked.
    ForkClaimed,
    /// The host made the children and answered; nothing of it is written.
    ForkCalled,
    /// What became of one child is written; of the others perhaps not.
    ForkChildNoted,
    /// What became of every child is written; the job is still there.
    ForkNoted,
    /// A delete was parsed; nothing is written.
    DeleteAccepted,
    /// The row is stopping; nobody drives it yet.
    DeleteStored,
    /// The stopper holds the row; the host was not asked.
    StopClaimed,
    /// The host was asked to delete and answered; nothing of it is written.
    StopCalled,
    /// The answer is written; the row is not yet given back.
    StopNoted,
    /// Events were read for the stream; it has none of them.
    EventsTaken,
    /// The stream has the events; that is not noted.
    EventsAppended,
    /// A delivery is begun; no hook was called.
    DeliveryBegun,
    /// The hooks took the event; that is not noted.
    DeliveryMade,
    /// The delivery is settled; the stream's entry is still pending.
    DeliverySettled,
    /// A sign-up and the mail it owes stand; nobody sends it yet.
    SignUpStored,
    /// The sender holds the mail; its token is not made.
    MailClaimed,
    /// The token in the mail is good; the mail did not leave.
    MailWritten,
    /// The mail left; that is not noted.
    MailSent,
    /// The sender holds the channel; nobody was told of the event.
    ChannelClaimed,
    /// The channel took the event; that is not noted.
    ChannelSent,
    /// An account and the call owed for it: the account is purged, nobody was called.
    AccountPurged,
    /// The caller holds the outbound job; no hook was called.
    AccountHookClaimed,
    /// The hooks were called; that is not noted.
    AccountHookCalled,
}

/// Act of a test at a point: return to go on, or never return.
pub type Hook = dyn Fn(FaultPoint) -> BoxFuture<'static, ()> + Send + Sync;

/// The hook, if any.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

impl Faults {
    /// For tests.
    pub fn with_hook(hook: Arc<Hook>) -> Self {
        Self(Some(hook))
    }

    /// Passes a point.
    pub async fn reach(&self, point: FaultPoint) {
        if let Some(hook) = &self.0 {
            hook(point).await;
        }
    }
}
