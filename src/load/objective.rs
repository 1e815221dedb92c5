//! What a request must keep to count as good: goodput is the requests that do, per second.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds on one request's times; an absent one is always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Mean time between the request's tokens.
    pub itl: Option<Duration>,
    /// Time to the whole answer.
    pub e2e: Option<Duration>,
}

impl Objective {
    /// Reads `ttft=200ms,itl=50ms,e2e=2s`, each at most once; `duration` reads a time.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str, duration: impl Fn(&str) -> Result<Duration, String>) -> Result<Self, String> {
        let mut objective = Self::default();
        for part in text.split(',') {
            let allowed = "times for ttft, itl and e2e are expected, as in ttft=200ms,itl=50ms,e2e=2s";
            let (name, time) = part.trim().split_once('=').ok_or(allowed)?;
            let place = match name.trim() {
                "ttft" => &mut objective.ttft,
                "itl" => &mut objective.itl,
                "e2e" => &mut objective.e2e,
                _ => return Err(allowed.into()),
            };
            let time = duration(time.trim()).map_err(|allowed| format!("{name}: {allowed}"))?;
            if place.replace(time).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(objective)
    }

    /// Whether a request that ended well after `e2e` is good. A time that was not seen, as the first token's where the
    /// answer came whole, does not keep a bound.
    pub fn kept(&self, ttft: Option<Duration>, itl: Option<Duration>, e2e: Duration, tokens: u32) -> bool {
        let within = |bound: Option<Duration>, seen: Option<Duration>| match bound {
            None => true,
            Some(bound) => seen.is_some_and(|seen| seen <= bound),
        };
        // One token has no time between tokens: nothing to keep.
        let itl_kept = tokens <= 1 && ttft.is_some() || within(self.itl, itl);
        within(self.ttft, ttft) && itl_kept && within(self.e2e, Some(e2e))
    }

    /// Whether a bound needs tokens to be seen one by one.
    pub fn needs_stream(&self) -> bool {
        self.ttft.is_some() || self.itl.is_some()
    }
}

impl std::fmt::Display for Objective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [("time to first token", self.ttft), ("between tokens", self.itl), ("end to end", self.e2e)];
        let said: Vec<String> =
            parts.iter().filter_map(|(name, bound)| bound.map(|bound| format!("{name} <= {bound:?}"))).collect();
        if said.is_empty() { f.write_str("no objective") } else { f.write_str(&said.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Result<Duration, String> {
        let number = text.strip_suffix("ms").and_then(|n| n.parse().ok());
        number.map(Duration::from_millis).ok_or_else(|| "a time".to_owned())
    }

    #[test]
    fn objectives_are_read_and_every_bound_counts() {
        let objective = Objective::parse("ttft=200ms, e2e=2000ms,itl=50ms", millis).unwrap();
        let ms = |n| Some(Duration::from_millis(n));
        let kept = |ttft, itl, e2e| objective.kept(ttft, itl, Duration::from_millis(e2e), 9);
        assert!(kept(ms(200), ms(50), 2000));
        assert!(!kept(ms(201), ms(50), 2000));
        assert!(!kept(ms(200), ms(51), 2000));
        assert!(!kept(ms(200), ms(50), 2001));
        assert!(!kept(None, ms(50), 2000), "what was not seen is not kept");
        assert!(objective.kept(ms(1), None, Duration::ZERO, 1), "one token has no gap");
        assert!(Objective::default().kept(None, None, Duration::MAX, 0));
    }

    #[test]
    fn what_is_no_objective_is_refused() {
        for bad in ["", "ttft", "ttft=", "p99=1ms", "ttft=1ms,ttft=2ms", "e2e=fast"] {
            assert!(Objective::parse(bad, millis).is_err(), "{bad}");
        }
    }
}
