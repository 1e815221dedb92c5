//! Clients that know both doors, ask one after the other's answer, and judge what comes.

use crate::asks::{Ask, End, Given, Way};
use crate::clock::due;
use crate::places::{LIMIT, Life, Site};
use crate::plan::DOORS;
use stageline_base::prng::Prng;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Of a thousand streams, how many their clients leave.
const LEAVING: u64 = 80;
/// A client that was refused asks another door after this long.
const BEAT: Duration = Duration::from_millis(50);
/// A refusal takes less: what the door has for longer, it has taken.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// A door that was told to finish may give up what it still has after this long: somewhat less than `drain_timeout`.
const DRAINED_AFTER: Duration = Duration::from_secs(20);
/// A client that has no answer by then has lost it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of all attempts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Answers that were right, and their tokens.
    pub right: usize,
    pub tokens: usize,
    /// Attempts that a client left.
    pub left: usize,
    /// Attempts that ended with the door that was killed.
    pub died: usize,
    /// Attempts that a door gave up when it had been told to finish for long.
    pub drained: usize,
    /// Attempts that no door took, by what it said.
    pub refused: BTreeMap<String, usize>,
    /// The longest that a right answer took.
    pub longest: Duration,
    /// Answers to kept requests that were right, their tokens, the connections that they were read by, and the longest.
    pub kept: usize,
    pub kept_tokens: usize,
    pub kept_streams: usize,
    pub kept_longest: Duration,
    /// What must not be.
    pub faults: Vec<String>,
}

/// Requests, and their right answers.
pub type Known = Vec<(Ask, Given)>;

/// What all clients of a run share.
pub struct Clients {
    pub seed: u64,
    pub known: Known,
    pub site: Arc<Site>,
    pub ledger: Mutex<Ledger>,
    /// Ask for nothing more.
    pub stop: CancellationToken,
}

impl Clients {
    /// Is the client of this number: asks until it is to stop, and ends with an answer.
    pub async fn ask(&self, number: u64) {
        let mut random = Prng::new(self.seed ^ (number << 32));
        while !self.stop.is_cancelled() {
            let which = random.below(self.known.len() as u64) as usize;
            let way = [Way::Whole, Way::Events, Way::Grpc][random.below(3) as usize];
            let leaves = random.chance(LEAVING).then(|| 1 + random.below(60) as usize);
            let answered = tokio::time::timeout(PATIENCE, async {
                while !self.attempt(which, (way, leaves), &mut random).await {
                    due(BEAT).await;
                }
            });
            if answered.await.is_err() {
                self.note(format!("client {number}: no answer to request {which} ({way:?}) in {PATIENCE:?}"));
            }
        }
    }

    fn note(&self, fault: String) {
        self.ledger.lock().expect("nobody panics here").faults.push(fault);
    }

    /// Asks once, at whichever door; whether there is no more to do.
    async fn attempt(&self, which: usize, (way, leaves): (Way, Option<usize>), random: &mut Prng) -> bool {
        let (ask, right) = &self.known[which];
        let (address, life) = self.site.found(DOORS[random.below(2) as usize]).await;
        let begun = Instant::now();
        let end = ask.at(&address, way, leaves).await;
        let took = begun.elapsed();
        let mut ledger = self.ledger.lock().expect("nobody panics here");
        match judge(&end, right, &life, took) {
            Verdict::Right => {
                ledger.right += 1;
                ledger.tokens += right.ids.len();
                ledger.longest = ledger.longest.max(took);
            }
            Verdict::Left => ledger.left += 1,
            Verdict::Died => ledger.died += 1,
            Verdict::Drained => ledger.drained += 1,
            Verdict::Refused(why) => *ledger.refused.entry(why).or_default() += 1,
            Verdict::Wrong(why) => {
                ledger.faults.push(format!("request {which} ({way:?}) at {} after {took:?}: {why}", life.name));
                // Told once: another attempt would say nothing new.
                return true;
            }
        }
        matches!(end, End::Done(_) | End::Left)
    }
}

enum Verdict {
    Right,
    Left,
    Died,
    Drained,
    Refused(String),
    Wrong(String),
}

/// What an attempt's end means, that took so long at a door that has lived so.
fn judge(end: &End, right: &Given, life: &Life, took: Duration) -> Verdict {
    let told = life.told.get().map(Instant::elapsed);
    match end {
        End::Done(given) if given == right => Verdict::Right,
        End::Done(given) => Verdict::Wrong(difference(given, right)),
        End::Left => Verdict::Left,
        End::Refused(why) if took < REFUSED_WITHIN => Verdict::Refused(brief(why)),
        _ if life.killed.load(SeqCst) => Verdict::Died,
        // As its port closed.
        End::Broken(why, false) if told.is_some() && took < REFUSED_WITHIN => Verdict::Refused(brief(why)),
        End::Refused(_) | End::Failed(_) if told.is_some_and(|told| (DRAINED_AFTER..LIMIT).contains(&told)) => {
            Verdict::Drained
        }
        End::Refused(why) => Verdict::Wrong(format!("lost: refused only then: {why}")),
        End::Failed(why) => Verdict::Wrong(format!("lost: {why}")),
        End::Broken(why, _) => Verdict::Wrong(format!("lost: the connection ended: {why}")),
    }
}

pub fn difference(given: &Given, right: &Given) -> String {
    let at = given.ids.iter().zip(&right.ids).position(|(given, right)| given != right);
    match at.or_else(|| (given.ids.len() != right.ids.len()).then_some(given.ids.len().min(right.ids.len()))) {
        Some(at) => {
            let some = |ids: &[u32]| format!("{:?} ({} in all)", &ids[at..ids.len().min(at + 4)], ids.len());
            format!("different from token {at} on: {}, not {}", some(&given.ids), some(&right.ids))
        }
        None => format!("the text is different: {:?}, not {:?}", given.text, right.text),
    }
}

/// The beginning of what was said, without what differs each time.
fn brief(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).take(90).collect()
}
