//! What goes wrong, and when: made from the seed before anything happens.

use stageline_base::prng::Prng;
use std::fmt;
use std::time::Duration;

/// A process's place: two replicas of each stage.
pub const PLACES: [(&str, usize); 6] =
    [("door a", 0), ("door b", 0), ("middle a", 1), ("middle b", 1), ("last a", 2), ("last b", 2)];
/// The places of doors.
pub const DOORS: [usize; 2] = [0, 1];

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL, and a new process after a while.
    Kill { place: usize, away: Duration },
    /// SIGSTOP, and SIGCONT after a while.
    Stop { place: usize, time: Duration },
    /// SIGTERM, and a new process when it has ended.
    Finish { place: usize },
    /// A new process, and SIGTERM to the old one when that is ready.
    Replace { place: usize },
    /// The broker is killed, and comes back after a while.
    Broker { away: Duration },
    /// A process's connections to the broker, or those to its hop port, are cut for a while.
    Cut { place: usize, hop: bool, time: Duration },
    /// They hold what comes.
    Hole { place: usize, hop: bool, time: Duration },
    /// They are slow.
    Slow { place: usize, hop: bool, time: Duration, by: Duration },
}

/// Kinds of [`Fault`].
pub const KINDS: [&str; 8] = ["kill", "stop", "finish", "replace", "broker", "cut", "hole", "slow"];

impl Fault {
    /// Its kind.
    pub fn kind(&self) -> &'static str {
        let at = match self {
            Self::Kill { .. } => 0,
            Self::Stop { .. } => 1,
            Self::Finish { .. } => 2,
            Self::Replace { .. } => 3,
            Self::Broker { .. } => 4,
            Self::Cut { .. } => 5,
            Self::Hole { .. } => 6,
            Self::Slow { .. } => 7,
        };
        KINDS[at]
    }

    /// How long nothing else happens to the same place.
    fn takes(&self) -> Duration {
        let settles = Duration::from_secs(3);
        match self {
            Self::Kill { away: time, .. }
            | Self::Broker { away: time }
            | Self::Stop { time, .. }
            | Self::Cut { time, .. }
            | Self::Hole { time, .. }
            | Self::Slow { time, .. } => *time + settles,
            Self::Finish { .. } | Self::Replace { .. } => 2 * settles,
        }
    }
}

/// Everything that a run does, but for what the machine's own timing adds.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// When, and what: in the order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// How each place sends to the next stage.
    pub hops: Vec<&'static str>,
}

impl Plan {
    /// Of `seed`, for so long.
    pub fn of(seed: u64, length: Duration) -> Self {
        let mut random = Prng::new(seed);
        // Every way there is, on different replicas of the same stage.
        let mut hops = vec!["nats"; PLACES.len()];
        for pair in [[0, 1], [2, 3]] {
            let ways = ["nats", "grpc", "shm"];
            let first = random.below(3) as usize;
            let second = (first + 1 + random.below(2) as usize) % 3;
            (hops[pair[0]], hops[pair[1]]) = (ways[first], ways[second]);
        }
        let mut faults = Vec::new();
        let (mut at, mut deck) = (Duration::from_secs(1), Vec::new());
        // When each place, and last the broker, is left alone again.
        let mut free = [Duration::ZERO; PLACES.len() + 1];
        while at < length {
            if deck.is_empty() {
                deck = shuffled(&mut random);
            }
            let fault = draw(&mut random, deck.pop().expect("it is not empty"), |place| free[place] <= at);
            if let Some((place, fault)) = fault {
                free[place] = at + fault.takes();
                faults.push((at, fault));
            }
            at += millis(&mut random, 300..1800);
        }
        Self { seed, faults, hops }
    }
}

/// All kinds, so that each comes as often as any other.
fn shuffled(random: &mut Prng) -> Vec<usize> {
    let mut deck: Vec<usize> = (0..KINDS.len()).collect();
    for at in (1..deck.len()).rev() {
        deck.swap(at, random.below(at as u64 + 1) as usize);
    }
    deck
}

fn millis(random: &mut Prng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(range.start + random.below(range.end - range.start))
}

/// A fault of a kind, at a place that is free; the broker's is the one after the others. All numbers are drawn in any case, so
/// that a plan does not hang on what is free.
fn draw(random: &mut Prng, kind: usize, free: impl Fn(usize) -> bool) -> Option<(usize, Fault)> {
    let (from, short) = (random.below(PLACES.len() as u64) as usize, millis(random, 0..1500));
    let (long, by, hop) = (millis(random, 300..5000), millis(random, 5..120), random.chance(400));
    let broker = PLACES.len();
    if KINDS[kind] == "broker" {
        return free(broker).then_some((broker, Fault::Broker { away: short }));
    }
    let place = (0..PLACES.len()).map(|step| (from + step) % PLACES.len()).find(|place| free(*place))?;
    // Nobody joins a door.
    let hop = hop && !DOORS.contains(&place);
    let fault = match KINDS[kind] {
        "kill" => Fault::Kill { place, away: short },
        "stop" => Fault::Stop { place, time: long },
        "finish" => Fault::Finish { place },
        "replace" => Fault::Replace { place },
        "cut" => Fault::Cut { place, hop, time: short },
        "hole" => Fault::Hole { place, hop, time: long },
        _ => Fault::Slow { place, hop, time: long, by },
    };
    Some((place, fault))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}; hops of {:?}: {:?}", self.seed, PLACES.map(|place| place.0), self.hops)?;
        for (at, fault) in &self.faults {
            writeln!(f, "{:>7.2} s  {fault}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |place: &usize| PLACES[*place].0;
        let end = |hop: &bool| if *hop { "hop port" } else { "broker" };
        match self {
            Self::Kill { place, away } => write!(f, "kill {}, back after {away:?}", name(place)),
            Self::Stop { place, time } => write!(f, "stop {} for {time:?}", name(place)),
            Self::Finish { place } => write!(f, "finish {}, then a new one", name(place)),
            Self::Replace { place } => write!(f, "replace {}", name(place)),
            Self::Broker { away } => write!(f, "kill the broker, back after {away:?}"),
            Self::Cut { place, hop, time } => write!(f, "cut {} and its {} for {time:?}", name(place), end(hop)),
            Self::Hole { place, hop, time } => {
                write!(f, "nothing passes {} and its {} for {time:?}", name(place), end(hop))
            }
            Self::Slow { place, hop, time, by } => {
                write!(f, "all between {} and its {} is {by:?} late for {time:?}", name(place), end(hop))
            }
        }
    }
}

#[test]
fn a_seed_is_a_plan_and_every_kind_is_in_it() {
    for seed in 0..50 {
        let length = Duration::from_secs(30);
        let plan = Plan::of(seed, length);
        assert_eq!(plan.to_string(), Plan::of(seed, length).to_string());
        for kind in KINDS {
            assert!(plan.faults.iter().any(|(_, fault)| fault.kind() == kind), "no {kind} in {plan}");
        }
        assert!(plan.faults.is_sorted_by_key(|(at, _)| *at));
    }
    assert_ne!(Plan::of(1, Duration::from_secs(30)).to_string(), Plan::of(2, Duration::from_secs(30)).to_string());
}
