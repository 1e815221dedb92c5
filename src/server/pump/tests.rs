use super::*;
use crate::Options;
use stageline_base::{Border, Element, FaultClass, ReplicaId, Task, Trace};
use stageline_core::direct::DirectSetup;
use stageline_core::message::{Feedback, Report, Segment};
use stageline_core::{Mail, Opening, Sampling, Work};
use stageline_engine::fake::{FakeExecutor, FakeSetup, HIDDEN, Script};
use stageline_engine::{Device, Executor, Loader};
use stageline_transport::{Arrived, Doorbell, LeaseBoard, MemoryNet};
use stageline_wire::WIRE_VERSION;
use std::sync::Mutex;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const POISON: u32 = 7;

fn options() -> Options {
    Options {
        max_num_seqs: 2,
        max_model_len: 16,
        max_batch_tokens: 8,
        max_batch_delay: Duration::ZERO,
        block_size: 4,
        kv_blocks: 8,
        least_kv_blocks: 8,
        microbatches: 1,
        microbatches_away: 1,
        max_queue: 1,
        queue_timeout: Duration::from_secs(1),
        stage_timeout: Duration::from_secs(30),
        default_max_tokens: 1,
        max_deadline: Duration::from_secs(60),
        wire_dtype: Element::F32,
    }
}

fn status(me: &Peer) -> Status {
    Status {
        wire_version: WIRE_VERSION,
        manifest: "ab".repeat(32),
        stage: me.stage,
        replica: me.replica.clone(),
        started_unix_ms: 0,
        phase: Phase::Ready,
        kv_blocks_total: 8,
        kv_blocks_free: 8,
        block_size: 4,
        max_model_len: 16,
        live_sequences: 0,
        link_epochs: 1024,
        wire_dtype: Element::F32,
        join: None,
        hop: None,
    }
}

fn borders() -> (Border, Border) {
    (Border::hidden(1), Border::hidden(HIDDEN))
}

fn direct_runs(stage: &ReplicaId) -> DirectMachine {
    let stage = options().stage(stage, (1, 2), borders());
    let (me, max_rows) = (ReplicaId::new("direct", 1), 16);
    DirectMachine::new(DirectSetup { me, stage, vocab: 100, task: Task::GENERATE, max_rows })
}

/// A door that the test plays, with stage 0 in its process, and the second stage of its pipeline.
struct Pair {
    net: MemoryNet,
    door: Peer,
    stage: Peer,
    mailbox: Mailbox,
}

impl Pair {
    fn post(&self, body: Body) {
        self.net.post(&self.stage, Mail { from: self.door.replica.clone(), stage: self.door.stage, body }).unwrap();
    }

    fn frame(&self, number: u64, content: FrameContent) {
        self.post(Body::Link(LinkMail::Frame { epoch: 1, number, content }));
    }

    /// The next report, acknowledged.
    async fn report(&mut self) -> Report {
        let Some(Arrived::Mail(Mail { body: Body::Feedback(feedback), .. })) = self.mailbox.feedback.recv().await
        else {
            panic!("no feedback")
        };
        let Feedback { number, mut reports, .. } = feedback;
        self.post(Body::FeedbackAck { number });
        assert_eq!(reports.len(), 1);
        reports.remove(0)
    }
}

/// Begins and ends of spans, by name and `traceparent`.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, &'static str)>>>);

#[derive(Default)]
struct Traceparent(String);

impl Visit for Traceparent {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "traceparent" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut of = Traceparent::default();
        attributes.record(&mut of);
        self.0.lock().unwrap().push((format!("{} {}", attributes.metadata().name(), of.0), "begins"));
        context.span(id).unwrap().extensions_mut().insert(of);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let extensions = span.extensions();
        let of = extensions.get::<Traceparent>().unwrap();
        self.0.lock().unwrap().push((format!("{} {}", span.name(), of.0), "ends"));
    }
}

/// One test: what a place in the code is asked of spans is remembered for the whole process, so a test beside it that records none
/// could have this one see none.
#[test]
fn a_fault_that_a_door_is_told_of_is_counted_and_each_step_is_a_span() {
    // For what leases and devices spawn; the pump itself runs as in production.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    tracing::subscriber::with_default(subscriber, || Doorbell::new().unwrap().block_on(counts_a_fault()));
    let step = format!("step {}", Trace::begun(1, 1));
    // Twice: rows that the device fails at are run again, alone.
    let twice = ["begins", "ends", "begins", "ends"].map(|what| (step.clone(), what));
    assert_eq!(*spans.0.lock().unwrap(), twice);
}

async fn counts_a_fault() {
    let (net, leases) = (MemoryNet::new(), LeaseBoard::new());
    let peer = |stage, host| Peer { stage, replica: ReplicaId::new(host, 1) };
    let (door, stage) = (peer(0, "door"), peer(1, "stage"));
    let poison = Some(POISON);
    let setup =
        FakeSetup { stage: 1, last: true, vocab: 5, kv_blocks: 8, block_size: 4, script: Script::default(), poison };
    let load: Loader = Box::new(|| Ok(Box::new(FakeExecutor::new(setup)) as Box<dyn Executor>));
    let mut device = Device::start("test", vec![load]).await.unwrap();
    let metrics = Arc::new(Metrics::new("tiny", 1..2));
    let drain = Drain::default();
    // The door's lease first: its only Hello must not come before it.
    let _door = leases.keep(status(&door));
    let (mail, view) = (net.register(stage.clone()), leases.watch());
    let pump = Pump::new(PumpParts {
        machine: StageMachine::new(options().stage(&stage.replica, (1, 2), borders())),
        device: device.handle(0).unwrap(),
        mailbox: mail,
        post: Arc::new(net.clone()),
        lease: leases.keep(status(&stage)),
        replicas: view.replicas(),
        door: None,
        direct: (direct_runs(&stage.replica), mpsc::channel(1).1),
        metrics: metrics.clone(),
        started: Instant::now(),
        drain: drain.clone(),
    });
    let mailbox = net.register(door.clone());
    let mut pair = Pair { net, door: door.clone(), stage: stage.clone(), mailbox };
    let test = async {
        let (sequence, attempt) = (SequenceId { boot: 1, counter: 1 }, 1);
        pair.post(Body::Link(LinkMail::Hello { epoch: 1 }));
        pair.frame(
            1,
            FrameContent::Open(Arc::new(Opening {
                sequence,
                attempt,
                door: door.replica.clone(),
                path: vec![door.replica.clone(), stage.replica.clone()],
                call_id: String::new(),
                trace: Trace::begun(1, 1),
                work: Work::of(Task::GENERATE, Sampling::GREEDY),
                known: vec![POISON],
                capacity_tokens: 2,
            })),
        );
        assert!(matches!(pair.report().await, Report::Opened { .. }));
        let segment = Segment { sequence, attempt, door: door.replica.clone(), start: 0, rows: 1, emit: true };
        let payload = Tensors::hidden(1, POISON.to_le_bytes().to_vec().into()).unwrap();
        pair.frame(2, FrameContent::Rows { segments: vec![segment], payload });
        assert!(matches!(pair.report().await, Report::Failed { .. }));
        pair.post(Body::CloseNow { number: 1, closes: vec![(sequence, attempt)] });
        drain.begin.cancel();
    };
    let (ran, ()) = tokio::join!(pump.run(), test);
    ran.unwrap();
    let counted: Vec<FaultClass> = FaultClass::ALL
        .into_iter()
        .filter(|class| metrics.stage(1).unwrap().faults[*class as usize].get() > 0)
        .collect();
    assert_eq!(counted, [FaultClass::DeviceFailed]);
    assert!(metrics.render().contains(r#"stageline_faults_total{pipeline="tiny",stage="1",class="device_failed"} 1"#));
}
