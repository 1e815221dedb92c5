//! Seeded simulation of runs of flows: the real owners and the store's own state, with random flows, engines that die and freeze, jobs
//! that are pushed twice, appends whose answer is lost or that are done late, and orders at any moment. Every run that was accepted
//! must end once, with what a plain evaluation of its flow gives; nothing is recorded twice; nobody is called before the log says so.

#[path = "../support/seeds.rs"]
mod seeds;
mod world;

use seeds::{hold, seeds};
use stageline_flow::run::Planted;
use world::{MARKS, Report, World};

/// Seeds that CI runs. `STAGELINE_SIM_SEEDS=from..to` runs others.
const SEEDS: std::ops::Range<u64> = 0..2000;
/// Seeds within which a planted defect must show.
const PLANTED_SEEDS: u64 = 400;

fn run(seed: u64, planted: Planted) -> Report {
    World::new(seed, planted).run()
}

#[test]
fn every_accepted_run_ends_once_and_rightly() {
    hold(seeds(SEEDS), &MARKS, |seed| {
        let report = run(seed, Planted::None);
        (report.violations, report.marks)
    });
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [1, 20, 300] {
        assert_eq!(run(seed, Planted::None), run(seed, Planted::None), "seed {seed}");
    }
}

#[test]
fn planted_defects_are_caught() {
    let planted = [
        Planted::SettleFenced,
        Planted::CallUnlogged,
        Planted::TrustUnsure,
        Planted::ForgetParked,
        Planted::TellEarly,
        Planted::ForgetCalls,
        Planted::NeverLook,
        Planted::CountArrivals,
        Planted::AppendAnywhere,
    ];
    let seen = |planted| (0..PLANTED_SEEDS).any(|seed| !run(seed, planted).violations.is_empty());
    let blind: Vec<Planted> = planted.into_iter().filter(|planted| !seen(*planted)).collect();
    assert!(blind.is_empty(), "no checker saw {blind:?}");
}
