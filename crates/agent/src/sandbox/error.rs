//! Why a sandbox did not start or was not captured, and the failure its user gets.

use wrenn_vmm::VmmError;

use crate::failure::{ErrorCode, Failure};
use crate::guest::GuestError;
use crate::ledger::LedgerError;
use crate::network::NetworkError;
use crate::storage::StorageError;

/// A guest did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not prepare the network")]
    Network(#[from] NetworkError),
    #[error("could not prepare the disk")]
    Storage(#[from] StorageError),
    #[error("could not keep the ledger")]
    Ledger(#[from] LedgerError),
    #[error("could not start the VM")]
    Machine(#[from] VmmError),
    #[error("the guest cannot be reached")]
    Unreachable(#[source] GuestError),
    #[error("the guest did not become ready; its console ends with: {console}")]
    Guest { console: String, source: GuestError },
    #[error("the VM ended while it was starting; its console ends with: {console}")]
    Ended { console: String },
    #[error("no random numbers to be had")]
    Random,
}

impl StartError {
    /// Returns the failure that the user gets.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Storage(
                error @ (StorageError::TooSmall { .. } | StorageError::NoImage(_) | StorageError::NoSnapshot(_)),
            ) => Failure::new(ErrorCode::InvalidRequest, error.to_string()),
            Self::Storage(error @ StorageError::Full { .. }) => {
                Failure::new(ErrorCode::NoHostsAvailable, error.to_string())
            }
            Self::Storage(error @ StorageError::Foreign(_)) => Failure::new(ErrorCode::Conflict, error.to_string()),
            Self::Unreachable(_) | Self::Guest { .. } | Self::Ended { .. } => {
                Failure::new(ErrorCode::AgentError, self.to_string())
            }
            Self::Network(_) | Self::Storage(_) | Self::Ledger(_) | Self::Machine(_) | Self::Random => {
                Failure::new(ErrorCode::InternalError, format!("{self}; the host's log has the cause. Try again"))
            }
        }
    }
}

/// A sandbox was not captured; it runs on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the VM did not do its part")]
    Machine(#[from] VmmError),
    #[error("its files could not be written")]
    Storage(#[from] StorageError),
    #[error("its ledger could not be kept")]
    Ledger(#[from] LedgerError),
    #[error("no random numbers to be had")]
    Random,
}

impl CaptureError {
    /// Returns the failure that the user gets.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Storage(error @ StorageError::Full { .. }) => Failure::new(ErrorCode::DiskFull, error.to_string()),
            Self::Machine(_) | Self::Storage(_) | Self::Ledger(_) | Self::Random => {
                Failure::new(ErrorCode::AgentError, format!("{self}; the host's log has the cause. Try again"))
            }
        }
    }
}
