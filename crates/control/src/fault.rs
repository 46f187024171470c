//! Named steps at which a test may end this control plane, to prove that nothing is lost there.
//!
//! In production no hook is set and reaching a point costs one branch. A new step of create or delete gets a name
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
}

/// What a test does at a point: return to go on, or never return.
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
