//! The thread that owns a device. Everything else reaches it through its queue, one microbatch ahead a stage.

use crate::base::{Fault, HostTensor};
use crate::core::machine::DEVICE_DEPTH;
use crate::core::{BatchId, Microbatch, Output};
use crate::engine::Executor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

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
    inputs: Vec<HostTensor>,
}

/// Time that a device has worked, in all and for each of its stages.
#[derive(Debug)]
pub struct DeviceUse {
    started: Instant,
    stages_us: Vec<AtomicU64>,
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

    /// Working at all.
    pub fn busy_in_all(&self) -> Duration {
        (0..self.stages_us.len()).map(|slot| self.busy(slot)).sum()
    }
}

/// One device and the stages that it runs.
pub struct Device {
    jobs: SyncSender<Job>,
    ends: Vec<Option<mpsc::Receiver<Ran>>>,
    usage: Arc<DeviceUse>,
    thread: Option<JoinHandle<()>>,
}

/// A stage's way to its device.
pub struct DeviceHandle {
    slot: usize,
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
            let executors = loaders.into_iter().map(|load| {
                let mut executor = load()?;
                executor.warm_up()?;
                Ok(executor)
            });
            let executors: Result<Vec<_>, Fault> = executors.collect();
            match executors {
                Ok(executors) => {
                    let stages_us = executors.iter().map(|_| AtomicU64::new(0)).collect();
                    let usage = Arc::new(DeviceUse { started: Instant::now(), stages_us });
                    if ready.send(Ok(usage.clone())).is_ok() {
                        work(executors, &queue, &senders, &usage);
                    }
                }
                // Nobody waits for the fault where the start itself was given up.
                Err(fault) => drop(ready.send(Err(fault))),
            }
        });
        let thread = thread.map_err(|e| Fault::internal(format!("the device thread cannot be started: {e}")))?;
        let usage = loaded.await.map_err(|_| Fault::internal("the device thread ended while it loaded"))??;
        Ok(Self { jobs, ends: receivers.into_iter().map(Some).collect(), usage, thread: Some(thread) })
    }

    /// The way of the stage that the loader of this place made; once each.
    pub fn handle(&mut self, slot: usize) -> Option<DeviceHandle> {
        let ran = self.ends.get_mut(slot)?.take()?;
        Some(DeviceHandle { slot, jobs: self.jobs.clone(), ran, usage: self.usage.clone() })
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

fn work(mut executors: Vec<Box<dyn Executor>>, queue: &Receiver<Job>, ends: &[mpsc::Sender<Ran>], usage: &DeviceUse) {
    while let Ok(job) = queue.recv() {
        let begun = Instant::now();
        let outcome = executors[job.slot].run(&job.batch, &job.inputs);
        let took = begun.elapsed();
        usage.stages_us[job.slot].fetch_add(took.as_micros() as u64, Relaxed);
        // There is room for every batch that a stage may have on the device, so this never blocks; a stage that is gone
        // wants nothing any more.
        let failed = outcome.is_err();
        let _ = ends[job.slot].try_send(Ran { batch: job.batch.id, outcome, took });
        if failed && executors[job.slot].is_lost() {
            // The ends close with this thread: every stage on it, and so the process, ends and says why.
            return;
        }
    }
}

impl DeviceHandle {
    /// Hands a microbatch over; the stage has at most [`DEVICE_DEPTH`] there at once.
    ///
    /// # Errors
    /// The device thread is gone, or was handed more than that.
    pub fn run(&self, batch: Microbatch, inputs: Vec<HostTensor>) -> Result<(), Fault> {
        self.jobs.try_send(Job { slot: self.slot, batch, inputs }).map_err(|error| match error {
            TrySendError::Full(_) => Fault::internal("more microbatches than the device's queue holds"),
            TrySendError::Disconnected(_) => Fault::device("the device thread is gone"),
        })
    }

    /// The next microbatch that is back; `None` if the device thread is gone. Cancel-safe.
    pub async fn ran(&mut self) -> Option<Ran> {
        self.ran.recv().await
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
        fn warm_up(&mut self) -> Result<(), Fault> {
            Ok(())
        }

        fn run(&mut self, _: &Microbatch, _: &[HostTensor]) -> Result<Output, Fault> {
            self.0 += 1;
            Err(Fault::device("out of order"))
        }

        fn is_lost(&self) -> bool {
            self.0 == 2
        }
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
