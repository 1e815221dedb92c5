//! Runs what strangers' files decide on a thread of its own: with a stack of known size, and a panic there ends it alone.

use stageline_base::{Fault, FaultClass};
use stageline_template::STACK_BYTES;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// What `run` gives, run on a thread of its own; `what` says what it is for.
///
/// # Errors
/// `Internal` if it panics, `Unavailable` if there is no thread for it now.
pub(super) fn apart<T: Send>(what: &str, run: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("apart".to_string()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, run);
        let none =
            |error| Fault::new(FaultClass::Unavailable, format!("{what}: there is no thread for it now: {error}"));
        let thread = thread.map_err(none)?;
        thread.join().map_err(|panic| panicked(what, &*panic))
    })
}

/// What `run` gives, run here.
///
/// # Errors
/// `Internal` if it panics.
pub(super) fn unharmed<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, Fault> {
    // What it worked on is only read, or thrown away with its fault.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panicked(what, &*panic))
}

fn panicked(what: &str, panic: &(dyn Any + Send)) -> Fault {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let words: String = words.unwrap_or("it panicked").chars().take(200).collect();
    Fault::internal(format!("{what} failed: {}", words.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault() {
        let fault = apart("the work", || -> u32 { panic!("by {}", 7) }).unwrap_err();
        assert_eq!(fault, Fault::internal("the work failed: by 7"));
        let fault = unharmed("the work", || -> u32 { panic!("plainly") }).unwrap_err();
        assert_eq!(fault, Fault::internal("the work failed: plainly"));
        assert_eq!((apart("x", || 1), unharmed("x", || 2)), (Ok(1), Ok(2)));
    }
}
