//! What must hold, at each step and in the end.

use super::World;
use bytes::Bytes;
use stageline_flow::definition::File;
use stageline_flow::run::{Calling, Datum, Ended, FailureClass, Given, Key, Logged, Moment, Order, Phase, State};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    fn wrong(&mut self, run: usize, what: impl std::fmt::Display) {
        self.report.violations.push(format!("at {} ms: run {run}: {what}", self.now));
    }

    /// A record has got into the log.
    pub fn appended(&mut self, run: usize, record: &Bytes, finishes: bool) {
        let record: Vec<Moment> = serde_json::from_slice(record).unwrap();
        for said in record.iter().flat_map(|moment| &moment.said) {
            if let Logged::Owned { .. } = said {
                self.asked[run].owners += 1;
                if self.asked[run].owners > 1 {
                    self.mark("an owner followed another");
                }
            }
        }
        if finishes {
            if self.asked[run].finished.is_some() {
                self.wrong(run, "it is finished twice");
            }
            self.asked[run].finished = Some(record);
        }
    }

    /// Somebody is called: the log must say so, and by that very call.
    pub fn called(&mut self, run: usize, key: &Key, call: &Calling) {
        let state = self.state(run);
        let file = self.asked[run].file.clone();
        let mut said = state.history.iter().flat_map(|moment| &moment.said);
        let is_said =
            said.any(|said| matches!(said, Logged::Called { key: called, attempt, .. } if (called, *attempt) == (key, call.attempt)));
        // Whoever has lost it meanwhile may call once more.
        if !is_said && self.asked[run].finished.is_none() {
            self.wrong(run, format!("{key} is called, and the log does not say so"));
        }
        if call.id != format!("{:04}.{key}", run) && state.tries == 0 {
            self.wrong(run, format!("{key} is called by the id {}", call.id));
        }
        let _ = file;
        let owners = self.asked[run].owners;
        let calls = self.asked[run].calls.entry((key.clone(), call.attempt, owners)).or_default();
        *calls += 1;
        if *calls > 1 {
            let calls = *calls;
            self.wrong(run, format!("{key} is called {calls} times by one owner, attempt {}", call.attempt));
        }
        let by_others = self.asked[run]
            .calls
            .keys()
            .any(|(called, attempt, owner)| (called, *attempt) == (key, call.attempt) && *owner < owners);
        if by_others {
            self.mark("a call was made again by another engine");
        }
    }

    /// Who is to be told is told: the end must be in the log.
    pub fn told(&mut self, run: usize) {
        self.asked[run].told += 1;
        if self.state(run).ended.is_none() && self.asked[run].finished.is_none() {
            self.wrong(run, "its end is told before it is in the log");
        }
    }

    /// A job is said to be done.
    pub fn settled(&mut self, run: usize, job: &stageline_store::JobId) {
        let state = self.state(run);
        let is_twin = state.job.is_some_and(|number| !format!("{job:?}").contains(&format!("/{number}/")));
        if state.delivered.is_none() && !is_twin && state.accepted.is_some() {
            self.wrong(run, "its job is done, and it is not");
        }
    }

    pub fn check_end(&mut self) {
        for run in 0..self.asked.len() {
            if self.asked[run].accepted {
                self.check_run(run);
            }
        }
        // What rested is looked at once more when its time has come: whoever takes it then finds that nothing is left to do.
        let later = self.since() + std::time::Duration::from_secs(7200);
        while let Ok(job) = self.store.take(later, &Self::queue(), super::LEASE) {
            let run = u64::from_le_bytes(job.bytes[..].try_into().unwrap()) as usize;
            if self.asked[run].finished.is_none() {
                self.wrong(run, "a job is left of it");
            }
            self.store.done(&job.id);
        }
    }

    fn check_run(&mut self, run: usize) {
        let Some(history) = self.asked[run].finished.clone() else {
            let state = self.state(run);
            let (phase, calls) = (state.phase, state.calls(&self.asked[run].file));
            return self.wrong(run, format!("it has not ended: {phase:?}, paused {:?}, calls {calls:?}", state.paused));
        };
        let file = self.asked[run].file.clone();
        let mut state = State::default();
        state.take(&file, 1, &history);
        self.check_story(run, &history, &file);
        match state.ended.clone() {
            None => self.wrong(run, "its last record does not say how it ended"),
            // Where little time is left, what failed is not tried again.
            Some(Ended::Succeeded(_)) if self.asked[run].deadline.0 < super::END => {}
            Some(Ended::Succeeded(output)) => self.check_output(run, &output, &history),
            Some(Ended::Failed(failure)) => {
                self.mark("a run failed");
                let right = &self.asked[run].right;
                let known = match (&failure.node, failure.class) {
                    // Where little time is left, what failed is not tried again.
                    _ if self.asked[run].deadline.0 < super::END => true,
                    // As often as it is said, it may have been said to others.
                    (Some(_), FailureClass::Timeout) => failure.reason.contains("nobody said"),
                    (None, FailureClass::Timeout) => false,
                    (Some(node), _) => right.failing.iter().any(|key| *key == node.as_str()),
                    (None, _) => false,
                };
                if failure.class == FailureClass::Timeout {
                    self.mark("a run's time passed");
                }
                if !known {
                    self.wrong(run, format!("it failed of {failure:?}"));
                }
            }
            Some(Ended::Cancelled) => {
                let ordered = history.iter().flat_map(|moment| &moment.said);
                if !ordered.into_iter().any(|said| matches!(said, Logged::Ordered(Order::Cancel { .. }))) {
                    self.wrong(run, "it was cancelled, and nobody wanted that");
                }
            }
        }
        if !state.calls(&file).is_empty() {
            self.wrong(run, "it has ended, and calls are under way");
        }
        let asked = &self.asked[run];
        let given_up = matches!(state.delivered, Some(Some(_)));
        if asked.callback && asked.told == 0 && !given_up {
            self.wrong(run, "nobody was told of its end");
        }
    }

    fn check_output(&mut self, run: usize, output: &Datum, history: &[Moment]) {
        let right = &self.asked[run].right;
        let Some(expected) = right.output.clone() else {
            return self.wrong(run, format!("it succeeded, and should not: {:?}", right.failing));
        };
        let given = match output {
            Datum::Nothing => serde_json::Value::Null,
            Datum::Json(json) => json.value(),
            other => panic!("{other:?}"),
        };
        if given != expected {
            self.wrong(run, format!("it gave {given}, and should have given {expected}"));
        }
        let called: BTreeSet<&str> = history
            .iter()
            .flat_map(|moment| &moment.said)
            .filter_map(|said| match said {
                Logged::Called { key, .. } if !key.as_str().starts_with('~') => Some(key.as_str()),
                _ => None,
            })
            .collect();
        let right = &self.asked[run].right;
        let expected: BTreeSet<&str> = right.gave.keys().chain(&right.failing).map(String::as_str).collect();
        if right.failing.is_empty() && called != expected {
            let (called, expected) = (format!("{called:?}"), format!("{expected:?}"));
            self.wrong(run, format!("it called {called}, and should have called {expected}"));
        }
    }

    /// What a run's log tells, from its beginning to its end.
    fn check_story(&mut self, run: usize, history: &[Moment], file: &File) {
        let mut done: BTreeMap<Key, u32> = BTreeMap::new();
        let mut taken_back = Vec::new();
        let mut can_be = Vec::new();
        let (mut cancelled, mut phase, mut ends) = (false, Phase::Main, 0);
        let mut wrong = Vec::new();
        let mut state = State::default();
        for moment in history {
            for said in &moment.said {
                match said {
                    Logged::Ordered(Order::Cancel { .. }) => cancelled = true,
                    Logged::Ordered(Order::Retry { .. }) => {
                        (cancelled, phase) = (false, Phase::Main);
                        done.clear();
                        can_be.clear();
                    }
                    Logged::Entered(entered) => phase = *entered,
                    Logged::Ended(_) => ends += 1,
                    Logged::Called { key, .. } => {
                        let is_main = !key.as_str().starts_with('~');
                        if is_main && (cancelled || phase != Phase::Main) {
                            wrong.push(format!("{key} is called after the flow's end or a cancellation"));
                        }
                        if let Some(key) = key.as_str().strip_prefix("~undo.")
                            && !taken_back.iter().any(|known: &String| known == key)
                        {
                            taken_back.push(key.to_owned());
                        }
                    }
                    Logged::Done { key, output } => {
                        let times = done.entry(key.clone()).or_default();
                        *times += 1;
                        if *times > 1 {
                            wrong.push(format!("{key} is done {times} times"));
                        }
                        if let Some(right) = self.asked[run].right.gave.get(key.as_str())
                            && *output != Given::Here(Datum::of(right))
                            && !is_instead(output)
                        {
                            wrong.push(format!("{key} gave {output:?}, and should have given {right}"));
                        }
                        if !key.as_str().starts_with('~') && undoes(file, &state, key) {
                            can_be.push(key.as_str().to_owned());
                        }
                    }
                    _ => {}
                }
            }
            state.take(file, 1, std::slice::from_ref(moment));
        }
        if ends != 1 + u32::from(self.asked[run].tried_anew) {
            wrong.push(format!("it ended {ends} times"));
        }
        if !taken_back.is_empty() {
            self.mark("something was taken back");
            can_be.reverse();
            if !self.asked[run].tried_anew && can_be != taken_back {
                wrong.push(format!("{taken_back:?} is taken back, and {can_be:?} should have been"));
            }
        }
        let tolerated = history.iter().flat_map(|moment| &moment.said);
        let fails = |said: &&Logged| matches!(said, Logged::Failed { again: None, .. });
        if tolerated.filter(fails).count() > 0 && matches!(state.ended, Some(Ended::Succeeded(_))) {
            self.mark("an item was tolerated");
        }
        for what in wrong {
            self.wrong(run, what);
        }
    }
}

/// Whether it is what a node gives that failed.
fn is_instead(output: &Given) -> bool {
    *output == Given::Here(Datum::of(&serde_json::json!({ "v": 41 })))
}

/// Whether what a key did can be taken back.
fn undoes(file: &File, state: &State, key: &Key) -> bool {
    state.node_of(file, key).is_some_and(|node| node.undo.is_some())
}
