//! The thread that owns a device. Everything else reaches it through its queue, one microbatch ahead a stage.

use crate::{Executor, Ready};
use stageline_base::{Fault, Tensors};
use stageline_core::machine::DEVICE_DEPTH;
use stageline_core::{BatchId, Microbatch, Output};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Bounds of the time between two looks at a device that works by itself: below, looking would be all that the thread does;
/// above, a batch that has come would wait for it.
const LEAST_PAUSE: Duration = Duration::from_micros(10);
const MOST_PAUSE: Duration = Duration::from_micros(500);

/// How often a watch looks at its device.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Status of a process whose device hangs: EX_UNAVAILABLE of sysexits.h.
const HUNG: i32 = 69;

/// Makes an executor, on the thread that will run it (CUDA wants that).
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Executor>, Fault> + Send>;

/// A microbatch that is back from the device.
#[derive(Debug)]
pub struct Ran {
    /// Which.
    pub batch: BatchId,
    /// What it gave, or why it failed.
    pub outcome: Result<Output, Fault>,
    /// How long the device was at it.
    pub took: Duration,
}

struct Job {
    slot: usize,
    batch: Microbatch,
    inputs: Vec<Tensors>,
}

/// Time that a device has worked, in all and for each of its stages.
#[derive(Debug)]
pub struct DeviceUse {
    started: Instant,
    stages_us: Vec<AtomicU64>,
    /// When the batch that is being worked on was, in microseconds after `started`, and one more; 0: none is.
    since_us: AtomicU64,
}

impl DeviceUse {
    /// Since the device was ready.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Working for the stage of `slot`.
    pub fn busy(&self, slot: usize) -> Duration {
        Duration::from_micros(self.stages_us.get(slot).map_or(0, |us| us.load(Relaxed)))
    }

    /// Has the process end when the device is at one batch for longer than `timeout`. A call that hangs in a driver cannot be
    /// ended otherwise, and while the process lives its lease says that all is well.
    ///
    /// # Errors
    /// `Internal` if no thread can be started to look.
    pub fn bound(self: &Arc<Self>, timeout: Duration) -> Result<(), Fault> {
        let usage = self.clone();
        let look = move || {
            // Counted by looks: a process that is stopped and goes on has not been at it all the while.
            let (mut batch, mut at_it) = (0, Duration::ZERO);
            while batch == 0 || at_it <= timeout {
                std::thread::sleep(LOOK_EVERY);
                let now = usage.since_us.load(Relaxed);
                at_it = if now == batch { at_it + LOOK_EVERY } else { Duration::ZERO };
                batch = now;
            }
            tracing::error!(?timeout, "the device is at one batch for too long (device_timeout): this process ends");
            // SAFETY: it runs nothing of this process: what is registered for an orderly end might wait for the device.
            unsafe { libc::_exit(HUNG) }
        };
        let started = std::thread::Builder::new().name("device-watch".into()).spawn(look);
        started.map(drop).map_err(|e| Fault::internal(format!("the device's watch cannot be started: {e}")))
    }

    /// Working at all.
    pub fn busy_in_all(&self) -> Duration {
        (0..self.stages_us.len()).map(|slot| self.busy(slot)).sum()
    }
}

/// One device and the stages that it runs.
pub struct Device {
    jobs: SyncSender<Job>,
    ends: Vec<Option<(Ready, mpsc::Receiver<Ran>)>>,
    usage: Arc<DeviceUse>,
    thread: Option<JoinHandle<()>>,
}

/// A stage's way to its device.
pub struct DeviceHandle {
    slot: usize,
    ready: Ready,
    jobs: SyncSender<Job>,
    ran: mpsc::Receiver<Ran>,
    usage: Arc<DeviceUse>,
}

impl Device {
    /// Starts the thread, loads one executor a stage on it and warms each up.
    ///
    /// # Errors
    /// What a loader or a warm-up says, or that the thread could not be started.
    pub async fn start(name: &str, loaders: Vec<Loader>) -> Result<Self, Fault> {
        let slots = loaders.len();
        let (jobs, queue) = sync_channel(DEVICE_DEPTH * slots);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..slots).map(|_| mpsc::channel(DEVICE_DEPTH)).unzip();
        let (ready, loaded) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("device-{name}")).spawn(move || {
            match made(loaders) {
                Ok(made) => {
                    let (executors, each): (Vec<_>, Vec<_>) = made.into_iter().unzip();
                    let stages_us = executors.iter().map(|_| AtomicU64::new(0)).collect();
                    let usage = Arc::new(DeviceUse { started: Instant::now(), stages_us, since_us: AtomicU64::new(0) });
                    if ready.send(Ok((usage.clone(), each))).is_ok() {
                        work(executors, &queue, &senders, &usage);
                    }
                }
                // Nobody waits for the fault where the start itself was given up.
                Err(fault) => drop(ready.send(Err(fault))),
            }
        });
        let thread = thread.map_err(|e| Fault::internal(format!("the device thread cannot be started: {e}")))?;
        let (usage, each) = loaded.await.map_err(|_| Fault::internal("the device thread ended while it loaded"))??;
        let ends = each.into_iter().zip(receivers).map(Some).collect();
        Ok(Self { jobs, ends, usage, thread: Some(thread) })
    }

    /// The way of the stage that the loader of this place made; once each.
    pub fn handle(&mut self, slot: usize) -> Option<DeviceHandle> {
        let (ready, ran) = self.ends.get_mut(slot)?.take()?;
        Some(DeviceHandle { slot, ready, jobs: self.jobs.clone(), ran, usage: self.usage.clone() })
    }

    /// How long it has worked.
    pub fn usage(&self) -> Arc<DeviceUse> {
        self.usage.clone()
    }

    /// Waits for the thread, which ends when every handle is gone.
    pub fn join(mut self) {
        let thread = self.thread.take();
        drop(self.jobs);
        if let Some(thread) = thread {
            // A panic of the thread has been printed by its own hook.
            let _ = thread.join();
        }
    }
}

/// An executor, and what it came to.
type Warm = (Box<dyn Executor>, Ready);

/// Loads all executors, then warms each up: what one takes of the memory that is free must leave the others room for their
/// weights.
fn made(loaders: Vec<Loader>) -> Result<Vec<Warm>, Fault> {
    let executors = loaders.into_iter().map(|load| load()).collect::<Result<Vec<_>, Fault>>()?;
    let warm = executors.into_iter().map(|mut executor| executor.warm_up().map(|ready| (executor, ready)));
    let warm = warm.collect::<Result<Vec<Warm>, Fault>>()?;
    warm.into_iter().map(|(mut executor, ready)| executor.settle(ready).map(|ready| (executor, ready))).collect()
}

/// A batch that was handed to its executor.
struct Begun {
    job: Job,
    at: Instant,
    started: Result<(), Fault>,
}

/// What the thread does next.
enum Next {
    /// A batch has come.
    Start(Job),
    /// The batch that began first is done, or the device has nothing else to do.
    Finish,
    /// Nothing: every stage is gone.
    End,
}

/// The batches that a device thread has, in the order in which they came.
struct Worker<'a> {
    executors: Vec<Box<dyn Executor>>,
    queue: &'a Receiver<Job>,
    begun: VecDeque<Begun>,
    usage: &'a DeviceUse,
    /// When the last batch was done.
    idle_since: Instant,
    /// How long the last batch took.
    last_took: Duration,
}

impl Worker<'_> {
    /// Waits for whatever comes first: a batch to hand over, so that it is on the device before its turn, or the end of the
    /// one that runs.
    fn next(&mut self) -> Next {
        let Some(first) = self.begun.front() else {
            return self.queue.recv().map_or(Next::End, Next::Start);
        };
        // A device does not ring when it is done. Looking so often costs a step 1 part in 64 at the most.
        let pause = (self.last_took / 64).clamp(LEAST_PAUSE, MOST_PAUSE);
        loop {
            if first.started.is_err() || self.executors[first.job.slot].is_done() {
                return Next::Finish;
            }
            match self.queue.recv_timeout(pause) {
                Ok(job) => return Next::Start(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Next::Finish,
            }
        }
    }

    fn works_since(&self, at: Option<Instant>) {
        let since = at.map_or(0, |at| 1 + at.saturating_duration_since(self.usage.started).as_micros() as u64);
        self.usage.since_us.store(since, Relaxed);
    }

    fn start(&mut self, job: Job) {
        let at = Instant::now();
        if self.begun.is_empty() {
            self.works_since(Some(at));
        }
        let started = self.executors[job.slot].start(&job.batch, &job.inputs);
        self.begun.push_back(Begun { job, at, started });
    }

    /// Ends the batch that began first; says of which stage it was, and whether the device is lost.
    fn finish(&mut self) -> Option<(usize, Ran, bool)> {
        let Begun { job, at, started } = self.begun.pop_front()?;
        let executor = &mut self.executors[job.slot];
        let outcome = started.and_then(|()| executor.run(&job.batch, &job.inputs));
        let lost = outcome.is_err() && executor.is_lost();
        // While another ran before it, it only waited.
        self.last_took = at.max(self.idle_since).elapsed();
        self.idle_since = Instant::now();
        self.works_since(self.begun.front().map(|_| self.idle_since));
        Some((job.slot, Ran { batch: job.batch.id, outcome, took: self.last_took }, lost))
    }
}

fn work(executors: Vec<Box<dyn Executor>>, queue: &Receiver<Job>, ends: &[mpsc::Sender<Ran>], usage: &DeviceUse) {
    let (begun, idle_since) = (VecDeque::new(), Instant::now());
    let mut worker = Worker { executors, queue, begun, usage, idle_since, last_took: Duration::ZERO };
    loop {
        match worker.next() {
            Next::Start(job) => worker.start(job),
            Next::Finish => {
                let Some((slot, ran, lost)) = worker.finish() else { continue };
                usage.stages_us[slot].fetch_add(ran.took.as_micros() as u64, Relaxed);
                // There is room for every batch that a stage may have on the device, so this never blocks; a stage that is
                // gone wants nothing any more.
                let _ = ends[slot].try_send(ran);
                if lost {
                    tracing::error!("the device is lost: this process must be started again");
                    // The ends close with this thread: every stage on it, and so the process, ends and says why.
                    return;
                }
            }
            Next::End => return,
        }
    }
}

impl DeviceHandle {
    /// Hands a microbatch over; the stage has at most [`DEVICE_DEPTH`] there at once.
    ///
    /// # Errors
    /// The device thread is gone, or was handed more than that.
    pub fn run(&self, batch: Microbatch, inputs: Vec<Tensors>) -> Result<(), Fault> {
        self.jobs.try_send(Job { slot: self.slot, batch, inputs }).map_err(|error| match error {
            TrySendError::Full(_) => Fault::internal("more microbatches than the device's queue holds"),
            TrySendError::Disconnected(_) => Fault::device("the device thread is gone"),
        })
    }

    /// The next microbatch that is back; `None` if the device thread is gone. Cancel-safe.
    pub async fn ran(&mut self) -> Option<Ran> {
        self.ran.recv().await
    }

    /// What the stage's executor came to.
    pub fn ready(&self) -> Ready {
        self.ready
    }

    /// Time that the device has worked for this stage.
    pub fn busy(&self) -> Duration {
        self.usage.busy(self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every batch; after the second nothing will run any more.
    struct Failing(usize);

    impl Executor for Failing {
        fn warm_up(&mut self) -> Result<Ready, Fault> {
            Ok(Ready { kv_blocks: 1, refused_recordings: 0 })
        }

        fn run(&mut self, _: &Microbatch, _: &[Tensors]) -> Result<Output, Fault> {
            self.0 += 1;
            Err(Fault::device("out of order"))
        }

        fn is_lost(&self) -> bool {
            self.0 == 2
        }
    }

    /// A device that works by itself: the first batch ends when the second was begun.
    #[derive(Default)]
    struct Ahead {
        begun: Vec<u64>,
    }

    impl Executor for Ahead {
        fn warm_up(&mut self) -> Result<Ready, Fault> {
            Ok(Ready { kv_blocks: 1, refused_recordings: 0 })
        }

        fn start(&mut self, batch: &Microbatch, _: &[Tensors]) -> Result<(), Fault> {
            self.begun.push(batch.id.0);
            if batch.id.0 == 2 { Err(Fault::device("not begun")) } else { Ok(()) }
        }

        fn is_done(&mut self) -> bool {
            self.begun.len() > 1
        }

        fn run(&mut self, batch: &Microbatch, _: &[Tensors]) -> Result<Output, Fault> {
            assert_eq!(self.begun[..2], [1, 2], "batch 2 is begun while batch 1 runs");
            assert_ne!(batch.id, BatchId(2), "what could not be begun is not run");
            Ok(Output::Emissions(Vec::new()))
        }
    }

    #[tokio::test]
    async fn a_batch_is_begun_while_another_runs_and_they_come_back_in_order() {
        let load: Loader = Box::new(|| Ok(Box::new(Ahead::default()) as Box<dyn Executor>));
        let mut device = Device::start("test", vec![load]).await.unwrap();
        let mut handle = device.handle(0).unwrap();
        for number in 1..=2 {
            handle.run(Microbatch { id: BatchId(number), members: Vec::new() }, Vec::new()).unwrap();
        }
        let (first, second) = (handle.ran().await.unwrap(), handle.ran().await.unwrap());
        assert!(first.batch == BatchId(1) && first.outcome.is_ok());
        assert_eq!((second.batch, second.outcome.unwrap_err().message.as_str()), (BatchId(2), "not begun"));
        handle.run(Microbatch { id: BatchId(3), members: Vec::new() }, Vec::new()).unwrap();
        assert!(handle.ran().await.unwrap().outcome.is_ok());
    }

    #[tokio::test]
    async fn a_failed_batch_is_reported_and_a_lost_device_ends_its_thread() {
        let load: Loader = Box::new(|| Ok(Box::new(Failing(0)) as Box<dyn Executor>));
        let mut device = Device::start("test", vec![load]).await.unwrap();
        let mut handle = device.handle(0).unwrap();
        for number in 1..=2 {
            handle.run(Microbatch { id: BatchId(number), members: Vec::new() }, Vec::new()).unwrap();
            let ran = handle.ran().await.unwrap();
            assert_eq!((ran.batch, ran.outcome.unwrap_err().message.as_str()), (BatchId(number), "out of order"));
        }
        assert!(handle.ran().await.is_none(), "the thread goes on after its device is lost");
        assert!(handle.run(Microbatch { id: BatchId(3), members: Vec::new() }, Vec::new()).is_err());
    }
}
