//! Where the time went inside the server: its metrics before and after a run.

use crate::proxy::Way;
use serde::{Deserialize, Serialize};
use stageline_base::{Fault, FaultClass, with_causes};
use stageline_metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest metrics page that is read, in bytes.
const MAX_PAGE: usize = 4 << 20;

/// Where metrics are.
#[derive(Clone)]
pub enum Source {
    /// Pages of processes, by URL.
    Pages(Vec<String>),
    /// In this process.
    Inside(Arc<Metrics>),
}

/// Every process's numbers at a moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    pages: Vec<Page>,
}

/// One process's numbers: by name and stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page(BTreeMap<(String, u32), f64>);

/// What a stage did during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its place.
    pub stage: u32,
    /// Rows that it ran.
    pub rows: f64,
    /// Batches of them.
    pub batches: f64,
    /// Rows of a batch, on average.
    pub mean_batch: f64,
    /// Share of the time in which the device ran it, 0 to 1.
    pub busy: f64,
    /// Share of the time in which the device waited although it held sequences.
    pub bubble: f64,
    /// How long a row waited for the device, on average; absent if the server does not say.
    pub queue_ms: Option<f64>,
    /// How long the device took for its batch.
    pub compute_ms: Option<f64>,
    /// How long it took to the next stage.
    pub hop_ms: Option<f64>,
}

/// What a device did: one a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The stages that it runs.
    pub stages: Vec<u32>,
    /// Share of the time in which it ran batches.
    pub busy: f64,
    /// Share of the time in which it waited although requests were there: of a process with several stages, all the rest.
    pub bubble: f64,
}

impl Source {
    /// The numbers now.
    ///
    /// # Errors
    /// `Unavailable`, naming the page that cannot be read.
    pub async fn read(&self) -> Result<Reading, Fault> {
        let mut pages = Vec::new();
        match self {
            Self::Inside(metrics) => pages.push(Page::parse(&metrics.render())),
            Self::Pages(urls) => {
                for url in urls {
                    pages.push(Page::parse(&fetch(url).await?));
                }
            }
        }
        Ok(Reading { at: Instant::now(), pages })
    }

    /// Asserts that every page is there and is a stage's, before a run that needs them.
    ///
    /// # Errors
    /// As [`Self::read`]; `InvalidRequest` naming the page that is another.
    pub async fn check(&self) -> Result<(), Fault> {
        let Self::Pages(urls) = self else { return Ok(()) };
        let reading = self.read().await?;
        match urls.iter().zip(&reading.pages).find(|(_, page)| page.stages().is_empty()) {
            Some((url, _)) => Err(Fault::invalid(format!(
                "{url} names no stage: give the page of a stageline process, as in http://HOST:PORT/metrics"
            ))),
            None => Ok(()),
        }
    }
}

async fn fetch(url: &str) -> Result<String, Fault> {
    let way = Way::to(url)?;
    let words = way.words();
    let fail = |why: String| Fault::new(FaultClass::Unavailable, format!("no metrics from {url}{words}: {why}"));
    let broken = |error: reqwest::Error| fail(with_causes(&error));
    let client = way.clients().timeout(Duration::from_secs(5)).build();
    let answer = client.map_err(broken)?.get(url).send().await.map_err(broken)?;
    if !answer.status().is_success() {
        return Err(fail(format!("it answers {}", answer.status())));
    }
    let page = answer.bytes().await.map_err(broken)?;
    if page.len() > MAX_PAGE {
        return Err(fail(format!("it is longer than {MAX_PAGE} bytes")));
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}

impl Page {
    /// Reads a page in Prometheus' text format: what is of a stage, except the buckets of histograms.
    pub fn parse(text: &str) -> Self {
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some((name, labels)) = series.split_once('{') else { continue };
            let stage = labels.split_once("stage=\"").and_then(|(_, rest)| rest.split_once('"'));
            let stage = stage.and_then(|(stage, _)| stage.parse().ok());
            if let (Some(stage), Ok(value), false) = (stage, value.parse::<f64>(), name.ends_with("_bucket")) {
                // Faults have a series a class: they add up.
                *values.entry((name.to_owned(), stage)).or_insert(0.0) += value;
            }
        }
        Self(values)
    }

    /// A number of `stage`, by its name without `stageline_`.
    pub fn value(&self, name: &str, stage: u32) -> Option<f64> {
        self.0.get(&(format!("stageline_{name}"), stage)).copied()
    }

    fn stages(&self) -> BTreeSet<u32> {
        self.0.keys().filter(|(name, _)| name == "stageline_batch_rows_count").map(|(_, stage)| *stage).collect()
    }
}

/// What each stage and each device did between two readings of the same source.
pub fn between(before: &Reading, after: &Reading) -> (Vec<StageReport>, Vec<DeviceReport>) {
    let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
    let (mut stages, mut devices) = (Vec::new(), Vec::new());
    for (before, after) in before.pages.iter().zip(&after.pages) {
        let here: Vec<StageReport> =
            after.stages().into_iter().map(|stage| stage_between(before, after, stage, seconds)).collect();
        if here.is_empty() {
            continue;
        }
        let busy = here.iter().map(|stage| stage.busy).sum::<f64>().min(1.0);
        let bubble = if here.len() == 1 { here[0].bubble } else { 1.0 - busy };
        devices.push(DeviceReport { stages: here.iter().map(|stage| stage.stage).collect(), busy, bubble });
        stages.extend(here);
    }
    stages.sort_by_key(|stage| stage.stage);
    (stages, devices)
}

fn stage_between(before: &Page, after: &Page, stage: u32, seconds: f64) -> StageReport {
    let rose = |name: &str| {
        let after = after.value(name, stage)?;
        // A process that started anew counts from 0.
        Some(after - before.value(name, stage).filter(|before| *before <= after).unwrap_or(0.0))
    };
    let mean_ms = |name: &str| {
        let (sum, count) = (rose(&format!("{name}_sum"))?, rose(&format!("{name}_count"))?);
        (count > 0.0).then(|| 1e3 * sum / count)
    };
    let (rows, batches) = (rose("batch_rows_sum").unwrap_or(0.0), rose("batch_rows_count").unwrap_or(0.0));
    StageReport {
        stage,
        rows,
        batches,
        mean_batch: if batches > 0.0 { rows / batches } else { 0.0 },
        busy: rose("device_busy_seconds_total").unwrap_or(0.0) / seconds,
        bubble: rose("device_bubble_seconds_total").unwrap_or(0.0) / seconds,
        queue_ms: mean_ms("stage_queue_seconds"),
        compute_ms: mean_ms("stage_compute_seconds"),
        hop_ms: mean_ms("stage_hop_seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_the_difference_of_two_pages() {
        let metrics = Metrics::new("p", 0..2);
        let stage = metrics.stage(1).unwrap();
        stage.batch_rows.observe(100.0);
        let begun = Instant::now();
        let read =
            |seconds| Reading { at: begun + Duration::from_secs(seconds), pages: vec![Page::parse(&metrics.render())] };
        let before = read(0);
        stage.batch_rows.observe(8.0);
        stage.batch_rows.observe(4.0);
        stage.device_busy_seconds.inc_by(1.0);
        metrics.stage(0).unwrap().device_busy_seconds.inc_by(2.0);
        let (stages, devices) = between(&before, &read(4));
        assert_eq!((stages[1].rows, stages[1].batches, stages[1].mean_batch), (12.0, 2.0, 6.0));
        assert_eq!((stages[0].busy, stages[1].busy, stages[0].queue_ms), (0.5, 0.25, None));
        assert_eq!(devices, [DeviceReport { stages: vec![0, 1], busy: 0.75, bubble: 0.25 }]);
    }

    #[test]
    fn histograms_of_a_stage_give_means_and_a_restart_counts_from_zero() {
        let page = |sum: f64, count: f64| {
            Page::parse(&format!(
                "# HELP x y\nstageline_batch_rows_count{{pipeline=\"p\",stage=\"3\"}} {count}\n\
                 stageline_stage_queue_seconds_bucket{{pipeline=\"p\",stage=\"3\",le=\"1\"}} 9\n\
                 stageline_stage_queue_seconds_sum{{pipeline=\"p\",stage=\"3\"}} {sum}\n\
                 stageline_stage_queue_seconds_count{{pipeline=\"p\",stage=\"3\"}} {count}\n"
            ))
        };
        let report = stage_between(&page(1.0, 10.0), &page(1.5, 20.0), 3, 1.0);
        assert_eq!((report.queue_ms, report.compute_ms), (Some(50.0), None));
        assert_eq!(stage_between(&page(9.0, 90.0), &page(0.5, 10.0), 3, 1.0).queue_ms, Some(50.0));
    }
}
