//! Whose turn it is: one thread at a time has the value, and one that has little time waits no longer than it has.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A value that one thread at a time takes and gives back.
pub(crate) struct Turns<T> {
    /// `None` while somebody has it.
    value: Mutex<Option<T>>,
    back: Condvar,
}

/// The value, until this is dropped, also by a panic.
pub(crate) struct Turn<'a, T> {
    value: Option<T>,
    turns: &'a Turns<T>,
}

impl<T> Turns<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { value: Mutex::new(Some(value)), back: Condvar::new() }
    }

    /// Waits for the value.
    pub(crate) fn take(&self) -> Turn<'_, T> {
        let slot = self.back.wait_while(self.slot(), |v| v.is_none()).unwrap_or_else(PoisonError::into_inner);
        self.handed(slot).expect("invariant: waited for")
    }

    /// The value where nobody has it.
    pub(crate) fn try_take(&self) -> Option<Turn<'_, T>> {
        self.handed(self.slot())
    }

    /// Waits for the value until no time is left, by the clock of whoever asks.
    pub(crate) fn take_within(&self, time_left: impl Fn() -> Duration) -> Option<Turn<'_, T>> {
        let mut slot = self.slot();
        loop {
            let left = time_left();
            if slot.is_some() || left.is_zero() {
                return self.handed(slot);
            }
            slot = self.back.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handed(&self, mut slot: MutexGuard<'_, Option<T>>) -> Option<Turn<'_, T>> {
        slot.take().map(|value| Turn { value: Some(value), turns: self })
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("invariant: here until dropped")
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("invariant: here until dropped")
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        *self.turns.slot() = self.value.take();
        self.turns.back.notify_one();
    }
}
