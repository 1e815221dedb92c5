//! What a decode step asks of the driver, by count, and what becomes of a driver that fails. The driver's counts and failures
//! are the process's: these tests run in a process of their own, one after the other (`--test-threads 1`).

use crate::emulator::{counts, fail_next, fail_no_more, reset};
use crate::pipeline::{KV, blocks_of, member};
use crate::random::Random;
use crate::toy::{HIDDEN, on_engine, toy};
use stageline_base::{FaultClass, Task, Tensors};
use stageline_core::{BatchId, Member, Microbatch};
use stageline_engine::{Executor, Numbers, Runner, Setup};
use stageline_model::{KvShape, ModelSpec};
use stageline_server::load_executor;

/// Layers of the stage: what is counted is the same for every layer.
const LAYERS: usize = 2;

/// The last layers of a decoder on the engine, warmed up; activations come in.
fn stage() -> Box<dyn Executor> {
    let mut stage = loaded();
    stage.warm_up().expect("it warms up");
    stage
}

/// The same, not warmed up.
fn loaded() -> Box<dyn Executor> {
    let setup = on_engine(Numbers::Bf16, KV);
    let spec = toy(1 + LAYERS);
    load_executor(&Random::of(&spec), &spec, 1..1 + LAYERS, setup, &mut |_| {}).expect("the stage loads")
}

/// `rows` sequences at their first position: they see what this very step writes, and nothing that is left of others.
fn decode(rows: usize) -> (Microbatch, Vec<Tensors>) {
    let member = |i: usize| {
        let plain = member(i, 0..1, true, blocks_of(i, rows));
        let mut opening = (*plain.opening).clone();
        opening.work = stageline_core::Work::of(Task::GENERATE, stageline_core::Sampling::GREEDY);
        Member { opening: opening.into(), ..plain }
    };
    let members: Vec<Member> = (0..rows).map(member).collect();
    let row = || Tensors::hidden(1, vec![0x3c; HIDDEN * 4].into()).expect("a row");
    (Microbatch { id: BatchId(0), members }, (0..rows).map(|_| row()).collect())
}

#[test]
fn a_decode_step_is_one_graph_three_copies_and_one_wait_and_allocates_nothing() {
    let mut stage = stage();
    for rows in [1, 2, 8, 9, 16, 31, 32] {
        let (batch, inputs) = decode(rows);
        reset();
        stage.run(&batch, &inputs).expect("the step runs");
        let counts = counts();
        let did = (counts.graph_launches, counts.kernel_launches, counts.event_synchronisations);
        assert_eq!(did, (1, 0, 1), "{rows} rows: {counts:?}");
        assert_eq!((counts.htod_copies, counts.dtoh_copies, counts.dtod_copies), (1, 1, 1), "{rows} rows: {counts:?}");
        assert_eq!((counts.allocations, counts.frees, counts.memsets), (0, 0, 0), "{rows} rows: {counts:?}");
        assert_eq!(
            (counts.stream_synchronisations, counts.context_synchronisations),
            (0, 0),
            "{rows} rows: {counts:?}"
        );
        // Norm, product and sampling, which is two, are the head's.
        let layers = counts.graph_kernels + counts.blas_calls - 4;
        assert!(layers <= 9 * LAYERS as u64, "{rows} rows: {layers} kernels for {LAYERS} layers");
        // Down come the tokens; up go the activations and less than 4 KiB a row of positions and blocks.
        assert_eq!(counts.dtoh_bytes, 4 * rows as u64);
        let bucket = if rows <= 8 { rows } else { rows.next_power_of_two() } as u64;
        assert!(counts.htod_bytes <= bucket * (HIDDEN as u64 * 4 + 4096), "{rows} rows: {counts:?}");
    }
}

#[test]
fn a_step_of_short_sequences_brings_no_more_up_where_long_ones_may_come() {
    let up = |longest: usize| {
        let mut llama = toy(1 + LAYERS).engine_decoder().expect("a toy is a Llama").clone();
        llama.max_positions = longest;
        let spec = ModelSpec::from(llama);
        let kv = KvShape { blocks: longest / KV.block_size, ..KV };
        let setup = Setup { max_model_len: longest, ..on_engine(Numbers::Bf16, kv) };
        let mut stage =
            load_executor(&Random::of(&spec), &spec, 1..1 + LAYERS, setup, &mut |_| {}).expect("the stage loads");
        stage.warm_up().expect("it warms up");
        let (batch, inputs) = decode(3);
        reset();
        stage.run(&batch, &inputs).expect("the step runs");
        counts().htod_bytes
    };
    assert_eq!(up(1 << 17), up(1 << 12));
}

#[test]
fn candle_tells_a_lost_device_from_a_failed_batch() {
    let spec = toy(1 + LAYERS);
    let setup = Setup { runner: Runner::Candle, ..on_engine(Numbers::F32, KV) };
    let mut stage =
        load_executor(&Random::of(&spec), &spec, 1..1 + LAYERS, setup, &mut |_| {}).expect("the stage loads");
    let (batch, inputs) = decode(3);
    let want = format!("{:?}", stage.run(&batch, &inputs).expect("the step runs"));
    // 701: too many resources requested, of which the driver recovers. 226: a fault of the device that was contained.
    for (code, lost) in [(701, false), (226, true)] {
        fail_next(c"cuMemAllocAsync", 5, code);
        let fault = stage.run(&batch, &inputs).expect_err("an allocation fails");
        assert_eq!((fault.class, stage.is_lost()), (FaultClass::DeviceFailed, lost), "{fault}");
        assert_eq!(stage.run(&batch, &inputs).ok().map(|output| format!("{output:?}")), (!lost).then(|| want.clone()));
    }
    fail_no_more();
}

#[test]
fn a_failed_launch_fails_the_batch_and_the_next_one_runs() {
    let mut stage = stage();
    let (batch, inputs) = decode(3);
    let answered = |output| format!("{output:?}");
    let want = answered(stage.run(&batch, &inputs).expect("the step runs"));
    // 701: too many resources requested. The driver goes on.
    fail_next(c"cuGraphLaunch", 1, 701);
    let fault = stage.run(&batch, &inputs).expect_err("the launch fails");
    assert_eq!(fault.class, FaultClass::DeviceFailed, "{fault}");
    assert!(!stage.is_lost(), "{fault}");
    assert_eq!(answered(stage.run(&batch, &inputs).expect("the next step runs")), want);
}

#[test]
fn of_two_steps_under_way_the_one_that_fails_is_told_and_the_other_runs() {
    let mut stage = stage();
    let (batch, inputs) = decode(3);
    let (other, more) = decode(5);
    let other = Microbatch { id: BatchId(1), ..other };
    let want = format!("{:?}", stage.run(&other, &more).expect("the step runs"));
    for failing in [c"cuGraphLaunch", c"cuStreamWaitEvent", c"cuMemcpyDtoDAsync_v2", c"cuMemcpyHtoDAsync_v2"] {
        fail_next(failing, 2, 701);
        stage.start(&other, &more).expect("the first step is given to the device");
        let fault = stage.start(&batch, &inputs).expect_err("the second is refused");
        assert!(fault.class == FaultClass::DeviceFailed && !stage.is_lost(), "{failing:?}: {fault}");
        assert_eq!(format!("{:?}", stage.run(&other, &more).expect("the first step runs")), want, "{failing:?}");
        stage.run(&batch, &inputs).expect("the second step runs on another try");
    }
    fail_no_more();
}

#[test]
fn a_lost_device_is_told_from_a_failed_batch() {
    let mut stage = stage();
    let (batch, inputs) = decode(3);
    // 700: an illegal address; every later call says so too.
    fail_next(c"cuEventSynchronize", 1, 700);
    let fault = stage.run(&batch, &inputs).expect_err("the device is lost");
    assert!(stage.is_lost(), "{fault}");
    assert!(stage.run(&batch, &inputs).is_err());
    fail_no_more();
}

#[test]
fn a_refused_recording_runs_launch_by_launch() {
    let (batch, inputs) = decode(3);
    let want = format!("{:?}", stage().run(&batch, &inputs).expect("the step runs"));
    // Of the third bucket, or the only one whose products are cuBLASLt's, that of 32 rows. They follow 4 a layer of warm-up's 64
    // rows, whose head takes one, and those of the step as it is. 801: not supported. 13: a library's "execution failed".
    let products = 2 * 4 * LAYERS as i32 + 1;
    let cases = [
        (c"cuGraphInstantiateWithFlags", 3, 801, 3),
        (c"cuStreamBeginCapture_v2", 3, 801, 3),
        (c"cuGraphUpload", 3, 801, 3),
        (c"cublasLtMatmul", products + 1, 13, 32),
    ];
    for (call, after, code, refused) in cases {
        let what = format!("{call:?}");
        let mut stage = loaded();
        fail_next(call, after, code);
        let ready = stage.warm_up().expect("it warms up");
        fail_no_more();
        assert_eq!(ready.refused_recordings, 1, "{what}");
        for rows in [2, 3, 4, 32] {
            let (batch, inputs) = decode(rows);
            reset();
            let output = stage.run(&batch, &inputs).expect("the step runs");
            let counts = counts();
            assert_eq!(counts.graph_launches, u64::from(rows != refused), "{what}, {rows} rows: {counts:?}");
            if rows == 3 {
                assert_eq!(format!("{output:?}"), want, "{what}");
            }
        }
    }
}
