//! What a failure of memory means to a caller. There is one: a call that broke off while it held the lock.

use evstore_api::{Error, ErrorKind, Result};
use std::sync::{Mutex, MutexGuard};

/// Takes a lock.
///
/// # Errors
/// `Corrupt` when a call broke off in the middle of a change: what is behind the lock may be half of it.
pub fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| Error::new(ErrorKind::Corrupt, "a call broke off in the middle of a change"))
}
