//! What a process counts, and its page in Prometheus' text format 0.0.4.
//!
//! A metric is a field: no look-up by name, no lock. Every series carries the pipeline; those of a stage carry the stage too,
//! since one process may run several.

use stageline_base::{FaultClass, StageIndex};
use stageline_core::Refusal;
use stageline_transport::{Counters as BrokerCounters, HopCounters, HopKind};
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

mod connections;
mod instruments;
mod peers;

pub use connections::{Connections, Shed};
pub use instruments::{Counter, Gauge, Histogram, Seconds};

/// Up to a quarter of a millisecond, then four times as much each, up to a minute.
const TIMES_MICROS: [u64; 10] =
    [250, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000];
/// From a hop through memory to a long prefill.
const STEP_MICROS: [u64; 12] = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000];
const ROWS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    /// What the door counts; all zero where there is none.
    pub door: DoorMetrics,
    /// What the connection to the broker counts, where there is one.
    pub broker: OnceLock<Arc<BrokerCounters>>,
    pipeline: String,
    stages: Vec<StageMetrics>,
}

/// What a door counts.
#[derive(Debug)]
pub struct DoorMetrics {
    /// Requests that ended, by how: `ok`, or the fault's class.
    ends: [Counter; FaultClass::ALL.len() + 1],
    /// Tokens of admitted prompts.
    pub prompt_tokens: Counter,
    /// Tokens of answers, as they are handed to clients.
    pub answer_tokens: Counter,
    /// Calls that have arrived and are not answered to the end, whatever becomes of them.
    pub in_flight: Gauge,
    /// Admitted requests that wait for room on the path.
    pub waiting: Gauge,
    /// Sequences that were opened again after a loss.
    pub replays: Counter,
    /// Connections that were closed or refused.
    pub connections: Connections,
    /// From a request's arrival to its end.
    pub request_seconds: Histogram,
    /// From a request's arrival to its first token.
    pub first_token_seconds: Histogram,
}

impl DoorMetrics {
    fn new() -> Self {
        Self {
            ends: Default::default(),
            prompt_tokens: Counter::default(),
            answer_tokens: Counter::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            replays: Counter::default(),
            connections: Connections::default(),
            request_seconds: Histogram::of_times(&TIMES_MICROS),
            first_token_seconds: Histogram::of_times(&TIMES_MICROS),
        }
    }

    /// Counts the end of a request: well (`None`) or by a fault of that class, `took` after it arrived.
    pub fn ended(&self, fault: Option<FaultClass>, took: Duration) {
        self.ends[fault.map_or(0, |class| class as usize + 1)].inc();
        self.request_seconds.observe_time(took);
    }

    /// How many requests ended so.
    pub fn ends(&self, fault: Option<FaultClass>) -> u64 {
        self.ends[fault.map_or(0, |class| class as usize + 1)].get()
    }
}

/// What a stage counts.
#[derive(Debug)]
pub struct StageMetrics {
    stage: StageIndex,
    /// Faults that it reported to doors, by class, in the order of [`FaultClass::ALL`].
    pub faults: [Counter; FaultClass::ALL.len()],
    /// Rows that wait for the device.
    pub queued_rows: Gauge,
    /// Sequences that are open.
    pub live_sequences: Gauge,
    /// KV blocks in use.
    pub kv_blocks_used: Gauge,
    /// KV blocks there are.
    pub kv_blocks: Gauge,
    /// Steps that the device's driver refused to record.
    pub refused_recordings: Counter,
    /// Rows of each batch that ran: the sum is the rows run, the count the batches.
    pub batch_rows: Histogram,
    /// From the arrival of rows to their batch's start, each sequence of each batch.
    pub queue_seconds: Histogram,
    /// From a batch's start on the device to its end.
    pub compute_seconds: Histogram,
    /// From a frame's sending to the next stage's having it: half the time to its acknowledgement.
    pub hop_seconds: Histogram,
    /// Time in which the device ran a batch.
    pub device_busy: Seconds,
    /// Time in which the device waited although sequences were open: the bubble.
    pub device_bubble: Seconds,
    /// Opens and rows that the link to the next stage lost.
    pub link_lost: Counter,
    /// What peers sent and was refused, and what doors were not told, in the order of [`Refusal::ALL`].
    pub refused: [Counter; Refusal::ALL.len()],
    /// How it sends to the next stage, once that is known, and what the hops beside NATS count.
    pub hop: OnceLock<(HopKind, Arc<HopCounters>)>,
}

impl StageMetrics {
    fn new(stage: StageIndex) -> Self {
        Self {
            stage,
            faults: Default::default(),
            queued_rows: Gauge::default(),
            live_sequences: Gauge::default(),
            kv_blocks_used: Gauge::default(),
            kv_blocks: Gauge::default(),
            refused_recordings: Counter::default(),
            batch_rows: Histogram::of_numbers(&ROWS),
            queue_seconds: Histogram::of_times(&STEP_MICROS),
            compute_seconds: Histogram::of_times(&STEP_MICROS),
            hop_seconds: Histogram::of_times(&STEP_MICROS),
            device_busy: Seconds::default(),
            device_bubble: Seconds::default(),
            link_lost: Counter::default(),
            refused: Default::default(),
            hop: OnceLock::new(),
        }
    }
}

impl Metrics {
    /// Of a process that runs `stages` of `pipeline`.
    pub fn new(pipeline: impl Into<String>, stages: Range<StageIndex>) -> Self {
        let stages = stages.map(StageMetrics::new).collect();
        Self { door: DoorMetrics::new(), broker: OnceLock::new(), pipeline: pipeline.into(), stages }
    }

    /// The metrics of `stage`, if this process runs it.
    pub fn stage(&self, stage: StageIndex) -> Option<&StageMetrics> {
        self.stages.iter().find(|s| s.stage == stage)
    }

    /// The page that `/metrics` answers with. Its type is `text/plain; version=0.0.4`.
    pub fn render(&self) -> String {
        let mut page = Page { pipeline: &self.pipeline, text: String::new() };
        self.render_door(&mut page);
        self.render_stages(&mut page);
        peers::render(self, &mut page);
        page.text
    }

    fn render_door(&self, page: &mut Page) {
        let door = &self.door;
        page.family("requests_total", "counter", "Requests that ended, by how.");
        let names = ["ok"].into_iter().chain(FaultClass::ALL.map(|class| class.row().name));
        for (name, count) in names.zip(&door.ends) {
            page.sample("requests_total", &[("outcome", name)], count.get() as f64);
        }
        let single: [(&str, &str, &str, u64); 5] = [
            ("prompt_tokens_total", "counter", "Tokens of admitted prompts.", door.prompt_tokens.get()),
            ("answer_tokens_total", "counter", "Tokens of answers.", door.answer_tokens.get()),
            ("replays_total", "counter", "Sequences opened again after a loss.", door.replays.get()),
            ("requests_in_flight", "gauge", "Requests being served.", door.in_flight.get()),
            ("requests_waiting", "gauge", "Admitted requests that wait for room.", door.waiting.get()),
        ];
        for (name, kind, help, value) in single {
            page.family(name, kind, help);
            page.sample(name, &[], value as f64);
        }
        door.connections.render(page);
        page.family("request_seconds", "histogram", "From a request's arrival to its end.");
        page.histogram("request_seconds", &[], &door.request_seconds);
        page.family("first_token_seconds", "histogram", "From a request's arrival to its first token.");
        page.histogram("first_token_seconds", &[], &door.first_token_seconds);
    }

    fn render_stages(&self, page: &mut Page) {
        type Read = fn(&StageMetrics) -> f64;
        let single: [(&str, &str, &str, Read); 8] = [
            ("queued_rows", "gauge", "Rows that wait for the device.", |s| s.queued_rows.get() as f64),
            ("live_sequences", "gauge", "Open sequences.", |s| s.live_sequences.get() as f64),
            ("kv_blocks_used", "gauge", "KV blocks in use.", |s| s.kv_blocks_used.get() as f64),
            ("kv_blocks", "gauge", "KV blocks there are.", |s| s.kv_blocks.get() as f64),
            ("device_busy_seconds_total", "counter", "Time the device ran batches.", |s| s.device_busy.get()),
            ("device_bubble_seconds_total", "counter", "Time it waited with sequences open.", |s| {
                s.device_bubble.get()
            }),
            ("link_lost_total", "counter", "Opens and rows a link lost.", |s| s.link_lost.get() as f64),
            ("refused_recordings_total", "counter", "Steps the device's driver would not record.", |s| {
                s.refused_recordings.get() as f64
            }),
        ];
        let labels: Vec<String> = self.stages.iter().map(|s| s.stage.to_string()).collect();
        let stages = || self.stages.iter().zip(labels.iter().map(String::as_str));
        for (name, kind, help, read) in single {
            page.family(name, kind, help);
            stages().for_each(|(stage, label)| page.sample(name, &[("stage", label)], read(stage)));
        }
        page.family("stage_hop_info", "gauge", "How a stage sends to the next.");
        let hops = || stages().filter_map(|(stage, label)| Some((stage.hop.get()?, label)));
        hops().for_each(|((hop, _), label)| {
            page.sample("stage_hop_info", &[("stage", label), ("hop", hop.as_str())], 1.0);
        });
        page.family("hops_opened_total", "counter", "Hops to the next stage that were made, NATS aside.");
        hops().for_each(|((_, count), label)| {
            page.sample("hops_opened_total", &[("stage", label)], count.opened() as f64);
        });
        page.family("hops_impossible_total", "counter", "Hops that could not be made as they were asked for.");
        hops().for_each(|((_, count), label)| {
            page.sample("hops_impossible_total", &[("stage", label)], count.impossible() as f64);
        });
        page.family("batch_rows", "histogram", "Rows of each batch that ran.");
        stages().for_each(|(stage, label)| page.histogram("batch_rows", &[("stage", label)], &stage.batch_rows));
        type Times = fn(&StageMetrics) -> &Histogram;
        let times: [(&str, &str, Times); 3] = [
            ("stage_queue_seconds", "From rows' arrival at a stage to their batch's start.", |s| &s.queue_seconds),
            ("stage_compute_seconds", "A batch on the device.", |s| &s.compute_seconds),
            ("stage_hop_seconds", "From a stage to the next, half of there and back.", |s| &s.hop_seconds),
        ];
        for (name, help, read) in times {
            page.family(name, "histogram", help);
            stages().for_each(|(stage, label)| page.histogram(name, &[("stage", label)], read(stage)));
        }
        page.family("faults_total", "counter", "Faults a stage reported to doors, by class.");
        for (stage, label) in stages() {
            for (class, count) in FaultClass::ALL.iter().zip(&stage.faults) {
                let labels = [("stage", label), ("class", class.row().name)];
                page.sample("faults_total", &labels, count.get() as f64);
            }
        }
    }
}

/// The page as it is written. All names begin with `stageline_`.
struct Page<'a> {
    pipeline: &'a str,
    text: String,
}

impl Page<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.text += &format!("# HELP stageline_{name} {help}\n# TYPE stageline_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = write!(self.text, "stageline_{name}{{pipeline=\"{}\"", escape(self.pipeline));
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escape(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        for (bound, up_to) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_string() };
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &labels, up_to as f64);
            count = up_to;
        }
        self.sample(&format!("{name}_sum"), labels, histogram.printed_sum());
        self.sample(&format!("{name}_count"), labels, count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_page_holds_every_metric_once_under_its_family() {
        let metrics = Metrics::new("a\"b", 1..3);
        metrics.door.ended(None, Duration::from_millis(3));
        metrics.door.ended(Some(FaultClass::Internal), Duration::from_secs(100));
        metrics.stage(2).unwrap().batch_rows.observe(3);
        metrics.stage(1).unwrap().device_busy.add(Duration::from_millis(1500));
        metrics.stage(1).unwrap().faults[FaultClass::DeviceFailed as usize].inc();
        assert!(metrics.stage(0).is_none());
        let page = metrics.render();
        for line in [
            r#"stageline_requests_total{pipeline="a\"b",outcome="ok"} 1"#,
            r#"stageline_requests_total{pipeline="a\"b",outcome="internal"} 1"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="0.004"} 1"#,
            r#"stageline_request_seconds_bucket{pipeline="a\"b",le="+Inf"} 2"#,
            r#"stageline_request_seconds_sum{pipeline="a\"b"} 100.003"#,
            r#"stageline_batch_rows_bucket{pipeline="a\"b",stage="2",le="4"} 1"#,
            r#"stageline_batch_rows_count{pipeline="a\"b",stage="2"} 1"#,
            r#"stageline_device_busy_seconds_total{pipeline="a\"b",stage="1"} 1.5"#,
            r#"stageline_faults_total{pipeline="a\"b",stage="1",class="device_failed"} 1"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        let mut family = "";
        let mut seen = HashSet::new();
        for line in page.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => family = rest.split(' ').next().unwrap(),
                None if line.starts_with('#') => {}
                None => {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    assert!(series.starts_with(family) && value.parse::<f64>().is_ok(), "{line} under {family}");
                    assert!(seen.insert(series), "{series} twice");
                }
            }
        }
    }
}
