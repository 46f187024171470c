//! Failures of this room as RPC codes. Texts are for the caller, causes for the log.

use connectrpc::{ConnectError, ErrorCode};

use super::input::InputError;
use super::running::ResizeError;
use super::start::StartError;

impl From<StartError> for ConnectError {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::NoUser(_)
            | StartError::Plan(_)
            | StartError::NoDirectory(_)
            | StartError::NotADirectory(_)
            | StartError::DirectoryClosed { .. }
            | StartError::NoProgram(_)
            | StartError::NotExecutable { .. }
            | StartError::TooLong => ErrorCode::InvalidArgument,
            StartError::TagTaken(_) => ErrorCode::AlreadyExists,
            StartError::Full | StartError::NoRoom(_) => ErrorCode::ResourceExhausted,
            StartError::TooSlow => ErrorCode::DeadlineExceeded,
            StartError::Users(_) | StartError::Streams(_) | StartError::Spawn(_) => ErrorCode::Internal,
        };
        if code == ErrorCode::Internal {
            tracing::error!(error = whole(&error), "a process did not start");
        }
        ConnectError::new(code, whole(&error))
    }
}

impl From<InputError> for ConnectError {
    fn from(error: InputError) -> Self {
        let code = match &error {
            InputError::Ended => ErrorCode::NotFound,
            InputError::Nothing
            | InputError::Closed
            | InputError::ClosedByProcess
            | InputError::IsTerminal
            | InputError::NoTerminal
            | InputError::CannotClose => ErrorCode::FailedPrecondition,
            InputError::Busy => ErrorCode::ResourceExhausted,
            InputError::Write(_) => ErrorCode::Internal,
        };
        ConnectError::new(code, whole(&error))
    }
}

impl From<ResizeError> for ConnectError {
    fn from(error: ResizeError) -> Self {
        let code = match &error {
            ResizeError::Ended => ErrorCode::NotFound,
            ResizeError::NoTerminal => ErrorCode::FailedPrecondition,
            ResizeError::Resize(_) => ErrorCode::Internal,
        };
        ConnectError::new(code, whole(&error))
    }
}

/// The text with its causes: the kernel's word is often all there is to go by.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
