//! The thread budget of a process.

/// Makes `threads` the number of compute threads of this process; `None` is all cores that it may use.
///
/// candle and rayon take it from RAYON_NUM_THREADS. It is always set, since candle asks for it at every matmul and,
/// where it is absent, reads /proc/cpuinfo each time.
pub fn set_budget(threads: Option<usize>) {
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    // SAFETY: nothing may read or write the environment meanwhile. `cli::main` calls this before it starts any thread.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}
