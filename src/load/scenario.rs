//! A load, whole: with the program's version, all that a run can be repeated from.

use crate::arrival::Arrivals;
use crate::lengths::Lengths;
use crate::objective::Objective;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is sent, how, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Where to, as it was typed.
    pub target: String,
    /// Whether answers are read token by token.
    pub stream: bool,
    /// When requests are sent.
    pub shape: Shape,
    /// Until when; absent with a replayed file: all of it.
    pub amount: Option<Amount>,
    /// What is sent first and not counted.
    pub warm_up: Amount,
    /// How long answers may take that are still out at the end; later ones count as failed.
    pub drain: Duration,
    /// Most requests that are out at once. More wait in the harness, which counts as latency.
    pub max_outstanding: u32,
    /// Decides arrivals, lengths, prompts and sampling.
    pub seed: u64,
    /// Lengths of prompts that are made up of random token ids.
    pub prompt_tokens: Lengths,
    /// These ids: from the first to below the second.
    pub token_ids: (u32, u32),
    /// The file of prompts, where they are not made up.
    pub prompt_file: Option<String>,
    /// Most tokens of answers.
    pub output_tokens: Lengths,
    /// 0 is greedy.
    pub temperature: f32,
    /// Within which the server must answer; the server's default if absent.
    pub deadline: Option<Duration>,
    /// What a good request keeps.
    pub objective: Objective,
}

/// When requests are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Open loop: at a rate in requests a second, whatever the answers do.
    Open {
        /// Requests a second.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
    /// Open loop: at the times of a file.
    Replay {
        /// The file.
        file: String,
    },
    /// Closed loop: so many at once, each followed by the next as soon as it is answered.
    Closed {
        /// How many.
        concurrency: u32,
    },
}

/// A number of requests, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many requests.
    Requests(u64),
    /// What is sent within this time.
    Time(Duration),
}

impl Default for Scenario {
    /// One request at a time, a hundred times.
    fn default() -> Self {
        Self {
            target: String::new(),
            stream: false,
            shape: Shape::Closed { concurrency: 1 },
            amount: Some(Amount::Requests(100)),
            warm_up: Amount::Requests(0),
            drain: Duration::from_secs(30),
            max_outstanding: 4096,
            seed: 1,
            prompt_tokens: Lengths::Fixed(32),
            token_ids: (100, 1000),
            prompt_file: None,
            output_tokens: Lengths::Fixed(16),
            temperature: 0.0,
            deadline: None,
            objective: Objective::default(),
        }
    }
}

impl Scenario {
    /// The same load at another rate, or at another concurrency if it is a closed loop. A replayed file has neither.
    pub fn at_level(&self, level: f64) -> Self {
        let shape = match self.shape.clone() {
            Shape::Open { arrivals, .. } => Shape::Open { rate: level, arrivals },
            Shape::Closed { .. } => Shape::Closed { concurrency: (level.round() as u32).max(1) },
            replay @ Shape::Replay { .. } => replay,
        };
        Self { shape, ..self.clone() }
    }
}

impl Amount {
    /// Whether the request of this number, due at this time, still belongs to it.
    pub fn covers(self, index: u64, at: Duration) -> bool {
        match self {
            Self::Requests(count) => index < count,
            Self::Time(time) => at < time,
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open { rate, arrivals: Arrivals::Constant } => write!(f, "{rate} requests/s, equal gaps"),
            Self::Open { rate, arrivals: Arrivals::Poisson } => write!(f, "{rate} requests/s, Poisson"),
            Self::Open { rate, arrivals: Arrivals::Bursts(size) } => write!(f, "{rate} requests/s, bursts of {size}"),
            Self::Replay { file } => write!(f, "arrivals of {file}"),
            Self::Closed { concurrency: 1 } => f.write_str("closed loop, one request at a time"),
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} requests at once"),
        }
    }
}
