//! Whether anybody still waits for the answer of long work on a blocking thread, which nothing else can stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::DiskError;

/// The work's side.
#[derive(Debug, Clone, Default)]
pub struct Asking(Arc<AtomicBool>);

/// The caller's side: when it is dropped, the work ends soon.
#[derive(Debug)]
pub struct Caller(Asking);

impl Caller {
    /// A caller and what the work gets.
    pub fn new() -> (Self, Asking) {
        let asking = Asking::default();
        (Self(asking.clone()), asking)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Asking {
    /// To be called once per step.
    ///
    /// # Errors
    /// Nobody waits any more; the error reaches nobody.
    pub fn check(&self) -> Result<(), DiskError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(DiskError::Internal("the caller has gone"));
        }
        Ok(())
    }
}
