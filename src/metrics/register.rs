//! How a metric gets onto the page: it is one entry of a struct that [`registered`] makes, and its series are gathered here.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, counter, gauge};
use prometheus_client::registry::{Metric, Registry};
use std::fmt;
use std::ops::Index;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

/// Only rises.
pub type Counter = counter::Counter;
/// Time that has been spent, in seconds; only rises.
pub type Seconds = counter::Counter<f64, AtomicU64>;
/// A level that rises and falls. It must not fall below 0.
pub type Gauge = gauge::Gauge<u64, AtomicU64>;

/// A label's name and value.
pub(crate) type Label = (&'static str, String);
/// What counts, and the labels that tell it from the others of its family.
type Series = (Vec<Label>, Box<dyn Metric>);

/// Makes a struct of metrics. Each entry is all there is to say of a metric: its help text, its name (without `stageline_`, and
/// without the `_total` of a counter and the `_info` of a fact), and what counts it, where that is not its type's default.
macro_rules! registered {
    ($(#[$about:meta])* pub struct $of:ident { $(#[doc = $help:literal] $name:ident: $type:ty $(= $make:expr)?;)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $of { $(#[doc = $help] pub $name: $type,)* }

        impl $of {
            fn new(families: &mut $crate::register::Families, labels: &[$crate::register::Label]) -> Self {
                $(let $name: $type = registered!(@ $($make)?);
                families.add(stringify!($name), $help, $crate::register::Instrument::series(&$name, labels));)*
                Self { $($name),* }
            }
        }

        /// They count, and are on no page.
        impl Default for $of {
            fn default() -> Self {
                Self::new(&mut Default::default(), &[])
            }
        }
    };
    (@) => { Default::default() };
    (@ $make:expr) => { $make };
}
pub(crate) use registered;

/// What an entry may be. Each is a handle: its clones count the same.
pub(crate) trait Instrument {
    /// Its series, with `labels` and the labels of its own.
    fn series(&self, labels: &[Label]) -> Vec<Series>;
}

impl<M: Metric + Clone> Instrument for M {
    fn series(&self, labels: &[Label]) -> Vec<Series> {
        vec![(labels.to_vec(), Box::new(self.clone()))]
    }
}

/// A counter for each value of a label, by the value's place. The crate's own `Family` would look it up behind a lock.
#[derive(Clone, Debug)]
pub struct Counters(Vec<(Label, Counter)>);

impl Counters {
    pub(crate) fn by(label: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        Self(values.into_iter().map(|value| ((label, value.to_owned()), Counter::default())).collect())
    }

    /// The counters, in the order of the values.
    pub fn iter(&self) -> impl Iterator<Item = &Counter> {
        self.0.iter().map(|(_, counter)| counter)
    }
}

impl Index<usize> for Counters {
    type Output = Counter;

    fn index(&self, place: usize) -> &Counter {
        &self.0[place].1
    }
}

impl Instrument for Counters {
    fn series(&self, labels: &[Label]) -> Vec<Series> {
        let series = |(own, counter): &(Label, Counter)| {
            let counter: Box<dyn Metric> = Box::new(counter.clone());
            (labels.iter().chain([own]).cloned().collect(), counter)
        };
        self.0.iter().map(series).collect()
    }
}

/// Something that is settled once: the value of a label of a series that is always 1, and absent before.
#[derive(Clone, Debug)]
pub struct Fact {
    label: &'static str,
    value: Arc<OnceLock<&'static str>>,
}

impl Fact {
    pub(crate) fn of(label: &'static str) -> Self {
        Self { label, value: Arc::default() }
    }

    /// It is so. What was said first stays.
    pub fn is(&self, value: &'static str) {
        self.value.get_or_init(|| value);
    }
}

impl EncodeMetric for Fact {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.value.get().map_or(Ok(()), |value| encoder.encode_info(&[(self.label, *value)]))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}

/// All series of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    series: Vec<Series>,
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        self.series.first().map_or(MetricType::Unknown, |(_, metric)| metric.metric_type())
    }
}

/// The families of a page, in the order in which they came. A process may run several stages: their series share a family, which
/// a registry of the crate's for each stage would write once a stage.
#[derive(Debug, Default)]
pub(crate) struct Families(Vec<Family>);

impl Families {
    pub(crate) fn add(&mut self, name: &'static str, help: &'static str, series: Vec<Series>) {
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.series.extend(series),
            None => self.0.push(Family { name, help, series }),
        }
    }

    /// The registry of them all, each series with the label `pipeline`.
    pub(crate) fn registry(self, pipeline: String) -> Registry {
        let pipeline = [("pipeline".into(), pipeline.into())];
        let mut registry = Registry::with_prefix_and_labels("stageline", pipeline.into_iter());
        for family in self.0 {
            // The crate ends the text with a dot of its own.
            registry.register(family.name, family.help.trim().trim_end_matches('.'), family);
        }
        registry
    }
}
