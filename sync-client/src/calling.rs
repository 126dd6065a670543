//! Functions of the app that are called while its file is being synced: they get values and return values.
//! A verb of the same file inside one of them would wait for itself; it is an error at once (case C11).

use std::cell::Cell;

use crate::error::Error;

thread_local! {
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Calls a function of the app.
pub(crate) fn call<T>(f: impl FnOnce() -> T) -> T {
    /// Also where the function panics.
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            CALLING.set(self.0);
        }
    }
    let _until = Until(CALLING.replace(true));
    f()
}

/// Whether this thread is inside such a function.
pub(crate) fn is_inside() -> bool {
    CALLING.get()
}

/// # Errors
/// [`Error::Argument`] inside such a function.
pub(crate) fn not_inside() -> Result<(), Error> {
    if !is_inside() {
        return Ok(());
    }
    Err(Error::Argument(
        "a conflict function, an observer or a token function called back while the file is being synced: it gets \
         values and returns values; do this after the sync"
            .into(),
    ))
}
