//! What peers sent and was not taken, and what did not reach them.

use super::{BrokerCounters, Metrics, Page};
use stageline_core::Refusal;

/// Writes the families of what is refused, dropped and finds nobody.
pub(super) fn render(metrics: &Metrics, page: &mut Page) {
    page.family("refused_total", "counter", "What peers sent and was refused, and what they were not told, by why.");
    for stage in &metrics.stages {
        let label = stage.stage.to_string();
        for (why, count) in Refusal::ALL.iter().zip(&stage.refused) {
            page.sample("refused_total", &[("stage", &label), ("why", why.as_str())], count.get() as f64);
        }
    }
    page.family("hop_refused_total", "counter", "Parcels and joins that a hop port refused.");
    for stage in &metrics.stages {
        let Some((_, counters)) = stage.hop.get() else { continue };
        page.sample("hop_refused_total", &[("stage", &stage.stage.to_string())], counters.refused() as f64);
    }
    type Read = fn(&BrokerCounters) -> u64;
    let single: [(&str, &str, &str, Read); 5] = [
        ("nats_refused_total", "counter", "Parcels from NATS refused: malformed, or in a false name.", |c| c.refused()),
        ("nats_dropped_total", "counter", "Messages to or from NATS dropped, since nobody took them in time.", |c| {
            c.dropped()
        }),
        ("nats_unreachable_total", "counter", "Messages over NATS that found nobody.", |c| c.unreachable()),
        ("lease_records_refused_total", "counter", "Lease records that are malformed or not their owner's.", |c| {
            c.misplaced()
        }),
        ("other_digests", "gauge", "Other digests that are served under this pipeline's name.", |c| c.other_digests()),
    ];
    let Some(counters) = metrics.broker.get() else { return };
    for (name, kind, help, read) in single {
        page.family(name, kind, help);
        page.sample(name, &[], read(counters) as f64);
    }
}
