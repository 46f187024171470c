//! The one policy for locks that threads share: what a lock guards is changed in single steps, so it is whole even after a panic.
//!
//! Must never: be held across an await, or around a call that may block.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one whose holder panicked.
///
/// Every critical section of this crate leaves what it guards whole after each statement (an insert, a removal, a count), so a panic in
/// one of them is no reason to refuse all requests that come after it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
