//! What the demo reads off metrics pages, the process's own or another's.

use stageline_load::stages::Page;

/// What a stage has done, by its metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StagePage {
    /// Rows run.
    pub rows: f64,
    /// Batches run.
    pub batches: f64,
    /// Seconds that the device worked for the stage.
    pub busy_seconds: f64,
    /// Seconds that it did not, while the stage held sequences.
    pub bubble_seconds: f64,
}

impl StagePage {
    /// Of `stage`, from a page in Prometheus' text format.
    pub fn read(page: &str, stage: usize) -> Self {
        let page = Page::parse(page);
        let value = |name: &str| page.value(name, stage as u32).unwrap_or(0.0);
        Self {
            rows: value("batch_rows_sum"),
            batches: value("batch_rows_count"),
            busy_seconds: value("device_busy_seconds_total"),
            bubble_seconds: value("device_bubble_seconds_total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stageline_metrics::Metrics;

    #[test]
    fn the_numbers_are_those_that_the_page_was_made_of() {
        let metrics = Metrics::new("p", 0..2);
        let stage = metrics.stage(1).expect("stage 1");
        stage.batch_rows.observe(8.0);
        stage.batch_rows.observe(3.0);
        stage.device_busy_seconds.inc_by(1.5);
        stage.device_bubble_seconds.inc_by(0.25);
        let read = StagePage::read(&metrics.render(), 1);
        assert_eq!(read, StagePage { rows: 11.0, batches: 2.0, busy_seconds: 1.5, bubble_seconds: 0.25 });
        assert_eq!(StagePage::read(&metrics.render(), 0), StagePage::default());
    }
}
