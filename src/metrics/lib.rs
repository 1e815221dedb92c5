//! What a process counts, and its page in Prometheus' text format 0.0.4. docs/metrics.md lists every metric; a test holds the two
//! together.
//!
//! A metric is a field: no look-up by name. Every series carries the pipeline; those of a stage carry the stage too, since one
//! process may run several.

use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use register::{Families, Label, registered};
use stageline_base::{FaultClass, StageIndex};
use stageline_core::Refusal;
use std::ops::Range;
use std::time::Duration;

mod kept;
mod register;
mod shed;

// The histogram locks for each value: 20 ns where two atomics took 10, for at most one value a sequence and batch. In return its
// buckets, sum and count on the page are of one moment.
pub use kept::Kept;
pub use prometheus_client::metrics::histogram::Histogram;
pub use register::{Counter, Counters, Fact, Gauge, Seconds};
pub use shed::Shed;

/// The Content-Type of [`Metrics::render`].
///
/// One format for all who ask: every Prometheus takes it, people can read it, and OpenMetrics would write the bound `le="4"` as
/// `le="4.0"`, which to Prometheus 2 is another series.
pub use prometheus_text::CONTENT_TYPE;

/// In seconds: up to a quarter of a millisecond, then four times as much each, up to a minute.
const TIMES: [f64; 10] = [0.00025, 0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0, 64.0];
/// In seconds: from a hop through memory to a long prefill.
const STEP_TIMES: [f64; 12] = [0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

fn classes() -> impl Iterator<Item = &'static str> {
    FaultClass::ALL.iter().map(|class| class.row().name)
}

registered! {
    /// What a door counts; all zero where there is none.
    pub struct DoorMetrics {
        /// Requests that ended, by how.
        requests: Counters = Counters::by("outcome", ["ok"].into_iter().chain(classes()));
        /// Tokens of admitted prompts.
        prompt_tokens: Counter;
        /// Tokens of answers, as they are handed to clients.
        answer_tokens: Counter;
        /// Sequences opened again after a loss.
        replays: Counter;
        /// Requests that have arrived and are not answered to the end, whatever becomes of them.
        requests_in_flight: Gauge;
        /// Admitted requests that wait for room.
        requests_waiting: Gauge;
        /// What happened to durable requests, by what.
        durable_requests: Counters = Counters::by("event", Kept::ALL.map(Kept::as_str));
        /// Durable requests that this door owns.
        durable_owned: Gauge;
        /// Clients' connections closed or refused, by why.
        connections_shed: Counters = Counters::by("why", Shed::ALL.map(Shed::as_str));
        /// From a request's arrival to its end.
        request_seconds: Histogram = Histogram::new(TIMES);
        /// From a request's arrival to its first token.
        first_token_seconds: Histogram = Histogram::new(TIMES);
    }
}

registered! {
    /// What a stage counts.
    pub struct StageMetrics {
        /// Rows that wait for the device.
        queued_rows: Gauge;
        /// Open sequences.
        live_sequences: Gauge;
        /// KV blocks in use.
        kv_blocks_used: Gauge;
        /// KV blocks there are.
        kv_blocks: Gauge;
        /// Time the device ran batches.
        device_busy_seconds: Seconds;
        /// Time the device waited with sequences open.
        device_bubble_seconds: Seconds;
        /// Opens and rows that the link to the next stage lost.
        link_lost: Counter;
        /// Steps the device's driver would not record.
        refused_recordings: Counter;
        /// What numbers that cross between stages are.
        stage_wire_dtype: Fact = Fact::of("dtype");
        /// Rows of each batch that ran.
        batch_rows: Histogram = Histogram::new(ROWS);
        /// From rows' arrival at a stage to their batch's start, each sequence of each batch.
        stage_queue_seconds: Histogram = Histogram::new(STEP_TIMES);
        /// A batch on the device.
        stage_compute_seconds: Histogram = Histogram::new(STEP_TIMES);
        /// From a stage to the next, half of there and back.
        stage_hop_seconds: Histogram = Histogram::new(STEP_TIMES);
        /// Faults a stage reported to doors, by class.
        faults: Counters = Counters::by("class", classes());
        /// What peers sent and was refused, and what they were not told, by why.
        refused: Counters = Counters::by("why", Refusal::ALL.map(Refusal::as_str));
    }
}

registered! {
    /// What a stage's hops beside NATS count.
    pub struct HopMetrics {
        /// How a stage sends to the next.
        stage_hop: Fact = Fact::of("hop");
        /// Hops to the next stage that were made, NATS aside.
        hops_opened: Counter;
        /// Hops that could not be made as they were asked for.
        hops_impossible: Counter;
        /// Parcels that came over hops, NATS aside.
        hop_received: Counter;
        /// Parcels and joins that a hop port refused.
        hop_refused: Counter;
    }
}

registered! {
    /// What a connection to the broker counts; all zero where there is none.
    pub struct BrokerMetrics {
        /// Fragments sent over NATS: parcels larger than the broker takes at once.
        nats_fragments: Counter;
        /// Parcels from NATS refused: malformed, or in a false name.
        nats_refused: Counter;
        /// Messages to or from NATS dropped, since nobody took them in time.
        nats_dropped: Counter;
        /// Messages over NATS that found nobody.
        nats_unreachable: Counter;
        /// Lease records that are malformed or not their owner's.
        lease_records_refused: Counter;
        /// Other digests that are served under this pipeline's name.
        other_digests: Gauge;
    }
}

impl DoorMetrics {
    /// Counts the end of a request: well (`None`) or by a fault of that class, `took` after it arrived.
    pub fn ended(&self, fault: Option<FaultClass>, took: Duration) {
        self.requests[fault.map_or(0, |class| class as usize + 1)].inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// How many requests ended so.
    pub fn ends(&self, fault: Option<FaultClass>) -> u64 {
        self.requests[fault.map_or(0, |class| class as usize + 1)].get()
    }
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    /// The door's.
    pub door: DoorMetrics,
    /// The broker's connection's.
    pub broker: BrokerMetrics,
    stages: Vec<(StageIndex, StageMetrics, HopMetrics)>,
    registry: Registry,
}

impl Metrics {
    /// Of a process that runs `stages` of `pipeline`.
    pub fn new(pipeline: impl Into<String>, stages: Range<StageIndex>) -> Self {
        let mut families = Families::default();
        let (door, broker) = (DoorMetrics::new(&mut families, &[]), BrokerMetrics::new(&mut families, &[]));
        let stage = |stage: StageIndex| {
            let labels: [Label; 1] = [("stage", stage.to_string())];
            (stage, StageMetrics::new(&mut families, &labels), HopMetrics::new(&mut families, &labels))
        };
        let stages = stages.map(stage).collect();
        Self { door, broker, stages, registry: families.registry(pipeline.into()) }
    }

    /// The metrics of `stage`, if this process runs it.
    pub fn stage(&self, stage: StageIndex) -> Option<&StageMetrics> {
        self.stages.iter().find(|(index, ..)| *index == stage).map(|(_, metrics, _)| metrics)
    }

    /// The metrics of the hops of `stage`; of a stage that this process does not run, some that are on no page.
    pub fn hops(&self, stage: StageIndex) -> HopMetrics {
        self.stages
            .iter()
            .find(|(index, ..)| *index == stage)
            .map_or_else(HopMetrics::default, |(.., hops)| hops.clone())
    }

    /// The page that `/metrics` answers with, of [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_text::encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    #[test]
    fn the_page_holds_every_metric_once_under_its_family() {
        let metrics = Metrics::new("a\"b", 1..3);
        metrics.door.ended(None, Duration::from_millis(3));
        metrics.door.ended(Some(FaultClass::Internal), Duration::from_secs(100));
        metrics.stage(2).unwrap().batch_rows.observe(3.0);
        metrics.stage(1).unwrap().device_busy_seconds.inc_by(1.5);
        metrics.stage(1).unwrap().faults[FaultClass::DeviceFailed as usize].inc();
        metrics.hops(2).stage_hop.is("grpc");
        assert!(metrics.stage(0).is_none());
        let page = metrics.render();
        for line in [
            r#"stageline_requests_total{pipeline="a\"b",outcome="ok"} 1"#,
            r#"stageline_requests_total{pipeline="a\"b",outcome="internal"} 1"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="0.00025"} 0"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="0.004"} 1"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="64"} 1"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="+Inf"} 2"#,
            r#"stageline_request_seconds_sum{pipeline="a\"b"} 100.003"#,
            r#"stageline_batch_rows_bucket{pipeline="a\"b",stage="2",le="4"} 1"#,
            r#"stageline_batch_rows_count{pipeline="a\"b",stage="2"} 1"#,
            r#"stageline_device_busy_seconds_total{pipeline="a\"b",stage="1"} 1.5"#,
            r#"stageline_faults_total{pipeline="a\"b",stage="1",class="device_failed"} 1"#,
            r#"stageline_stage_hop_info{pipeline="a\"b",stage="2",hop="grpc"} 1"#,
            r#"stageline_nats_dropped_total{pipeline="a\"b"} 0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        let (mut family, mut families) = ("", HashSet::new());
        let mut seen = HashSet::new();
        for line in page.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => {
                    family = rest.split(' ').next().unwrap();
                    assert!(families.insert(family), "{family} twice");
                }
                None if line.starts_with('#') => {}
                None => {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    assert!(series.starts_with(family) && value.parse::<f64>().is_ok(), "{line} under {family}");
                    assert!(seen.insert(series), "{series} twice");
                }
            }
        }
    }

    /// What the page of a process says of each metric: name, and then type, labels and text.
    fn shown() -> BTreeMap<String, [String; 3]> {
        let metrics = Metrics::new("p", 0..1);
        metrics.hops(0).stage_hop.is("grpc");
        metrics.stage(0).unwrap().stage_wire_dtype.is("f32");
        let page = metrics.render();
        let heads = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        let metric = |(name, help): (&str, &str)| {
            let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            let series = page.lines().find(|line| line.starts_with(name)).expect("a series");
            let labels = series.split_once('{').unwrap().1.split(',').map(|label| label.split_once('=').unwrap().0);
            let labels: Vec<_> = labels.filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
            (name.to_owned(), [kind.to_owned(), labels.join(", "), help.to_owned()])
        };
        heads.map(metric).collect()
    }

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let text = include_str!("../../docs/metrics.md");
        let mut listed = BTreeMap::new();
        for row in text.lines().filter_map(|line| line.strip_prefix("| `stageline_")?.strip_suffix(" |")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [name, kind, labels, unit, says, look] = cells[..] else { panic!("not six cells: {row}") };
            let name = format!("stageline_{}", name.trim_end_matches('`'));
            assert_eq!(unit == "seconds", name.contains("_seconds"), "the unit of {name}");
            assert!(!unit.is_empty() && !look.is_empty(), "{name} lacks a unit, or when to look at it");
            let twice = listed.insert(name, [kind, labels, says].map(str::to_owned));
            assert_eq!(twice, None, "{row}");
        }
        let shown = shown();
        for (name, metric) in &shown {
            assert_eq!(listed.get(name), Some(metric), "what docs/metrics.md says of {name}");
        }
        let unknown: Vec<_> = listed.keys().filter(|name| !shown.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "docs/metrics.md lists what no process has: {unknown:?}");
    }
}
