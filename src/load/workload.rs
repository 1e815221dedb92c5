//! What is asked: prompts, lengths and sampling seeds, each decided by the scenario's seed and the request's number.

use crate::replay::Replayed;
use crate::scenario::Scenario;
use stageline_base::prng::{self, Prng};
use stageline_base::{Fault, TokenId};
use std::ops::Range;
use std::time::Duration;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Its number, from 0.
    pub index: u64,
    /// What the model is given.
    pub prompt: Prompt,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// The server draws its tokens from this.
    pub seed: u64,
    /// Within which the server must answer.
    pub deadline: Option<Duration>,
}

/// What the model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<TokenId>),
}

/// Makes requests.
#[derive(Clone, Debug)]
pub struct Workload {
    scenario: Scenario,
    prompts: Vec<String>,
    replayed: Vec<Replayed>,
    ids: Range<u32>,
}

impl Workload {
    /// Of `scenario`, with the prompts and arrivals of its files, which may be none.
    ///
    /// # Errors
    /// If there is no token id to make prompts of.
    pub fn new(scenario: Scenario, prompts: Vec<String>, replayed: Vec<Replayed>) -> Result<Self, Fault> {
        let ids = scenario.token_ids.0..scenario.token_ids.1;
        if ids.is_empty() {
            return Err(Fault::invalid("there is no token id to make prompts of: give a range such as 100..1000"));
        }
        Ok(Self { scenario, prompts, replayed, ids })
    }

    /// Arrivals of the replayed file.
    pub fn replayed(&self) -> &[Replayed] {
        &self.replayed
    }

    /// The request of this number: the same whenever it is asked for.
    pub fn ask(&self, index: u64) -> Ask {
        // Each request has a stream of its own: how many are drawn before it changes nothing.
        let key = prng::at(self.scenario.seed ^ (index >> 32), index as u32);
        let mut prng = Prng::new(key);
        let replayed = self.replayed.get(index as usize);
        let prompt_tokens = self.scenario.prompt_tokens.draw(&mut prng);
        let output_tokens = self.scenario.output_tokens.draw(&mut prng);
        let seed = prng.next_u64();
        let prompt = match replayed.and_then(|line| line.prompt.clone()) {
            Some(text) => Prompt::Text(text),
            None if !self.prompts.is_empty() => {
                Prompt::Text(self.prompts[prng.below(self.prompts.len() as u64) as usize].clone())
            }
            None => {
                let count = replayed.and_then(|line| line.prompt_tokens).unwrap_or(prompt_tokens);
                let span = u64::from(self.ids.end - self.ids.start);
                Prompt::Tokens((0..count).map(|_| self.ids.start + prng.below(span) as u32).collect())
            }
        };
        Ask {
            index,
            prompt,
            max_tokens: replayed.and_then(|line| line.output_tokens).unwrap_or(output_tokens),
            temperature: self.scenario.temperature,
            seed,
            deadline: self.scenario.deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lengths;

    fn workload(seed: u64) -> Workload {
        let prompt_tokens = Lengths::Uniform(1, 40);
        let scenario = Scenario { seed, prompt_tokens, token_ids: (5, 9), ..Scenario::default() };
        Workload::new(scenario, Vec::new(), Vec::new()).unwrap()
    }

    #[test]
    fn a_request_depends_on_seed_and_number_alone() {
        let (one, same, other) = (workload(1), workload(1), workload(2));
        let forward: Vec<Ask> = (0..50).map(|i| one.ask(i)).collect();
        let backward: Vec<Ask> = (0..50).rev().map(|i| same.ask(i)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        assert!((0..50).all(|i| other.ask(i) != one.ask(i)));
        assert_ne!(one.ask(0), Ask { index: 0, ..one.ask(1 << 32) });
    }

    #[test]
    fn token_ids_stay_in_their_range() {
        for index in 0..200 {
            let Prompt::Tokens(ids) = workload(3).ask(index).prompt else { panic!("a text") };
            assert!((1..=40).contains(&ids.len()) && ids.iter().all(|id| (5..9).contains(id)));
        }
        let nothing = Scenario { token_ids: (5, 5), ..Scenario::default() };
        assert!(Workload::new(nothing, Vec::new(), Vec::new()).is_err());
    }

    #[test]
    fn a_replayed_line_says_what_it_says_and_leaves_the_rest() {
        let line = |prompt: Option<&str>, output_tokens| Replayed {
            at: Duration::ZERO,
            prompt: prompt.map(Into::into),
            prompt_tokens: None,
            output_tokens,
        };
        let lines = vec![line(Some("hello"), None), line(None, Some(3))];
        let workload = Workload::new(Scenario::default(), vec!["listed".into()], lines).unwrap();
        assert_eq!(workload.ask(0).prompt, Prompt::Text("hello".into()));
        assert_eq!(workload.ask(1).prompt, Prompt::Text("listed".into()));
        assert_eq!(workload.ask(1).max_tokens, 3);
    }
}
