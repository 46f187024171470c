//! The one policy for poisoned locks in the agent.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also after a panic of an earlier holder: every holder in this crate changes the value in one step, so that a panic
/// leaves it whole, and one sandbox's fault must not stop all the others.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
