//! The log lines of all tests, kept. There is one log a process: a subscriber of one thread misses lines whose place in the
//! code another thread was first to pass.

use std::io::Write;
use std::sync::{LazyLock, Mutex};

static LINES: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(|| {
    tracing_subscriber::fmt().with_ansi(false).with_writer(|| Lines).init();
    Mutex::default()
});

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps log lines from now on.
pub fn keep() {
    LazyLock::force(&LINES);
}

/// The lines so far.
pub fn logged() -> String {
    String::from_utf8(LINES.lock().unwrap().clone()).unwrap()
}
