//! What must hold, at each step and in the end.

use super::doors::Who;
use super::{World, right_prompt, right_tokens};
use bytes::Bytes;
use stageline_base::FaultClass;
use stageline_core::durable::{Life, Logged, LoggedToken};

impl World {
    fn wrong(&mut self, what: String) {
        self.report.violations.push(format!("at {} ms: {what}", self.now));
    }

    /// A record has got into the log, which said `before` until then.
    pub fn appended(&mut self, request: usize, before: &Life, record: &Bytes) {
        let record = self.logged(record);
        let tells_all = matches!(record.first(), Some(Logged::Accepted(_)));
        for logged in &record {
            let Logged::Tokens { from, tokens } = logged else { continue };
            if *from as usize != before.tokens.len() && !tells_all {
                let known = before.tokens.len();
                self.wrong(format!("request {request}: tokens from {from} on are behind {known} in the log"));
            }
            if *tokens != right_tokens(request, *from..*from + tokens.len() as u32) {
                self.wrong(format!("request {request}: wrong tokens from {from} on"));
            }
        }
        if tells_all && before.ended.is_none() {
            self.wrong(format!("request {request}: it is finished before its end"));
        }
    }

    /// Somebody has seen it: it must be in the log, and follow what was seen before.
    pub fn shown(&mut self, (door, slot): (usize, u64), shown: &[Logged]) {
        let request = self.doors[door].holds[&slot].request;
        let life = self.life(request);
        for logged in shown {
            match logged {
                Logged::Tokens { from, tokens } => {
                    let logged: Vec<&LoggedToken> =
                        life.tokens.iter().skip(*from as usize).take(tokens.len()).collect();
                    let is_logged = logged == tokens.iter().collect::<Vec<_>>();
                    let seen = &mut self.doors[door].holds.get_mut(&slot).unwrap().seen;
                    let before = seen.replace(*from as usize + tokens.len());
                    if before.is_some_and(|before| before != *from as usize) {
                        self.wrong(format!("request {request}: tokens from {from} on were seen behind {before:?}"));
                    }
                    if !is_logged {
                        let seen = tokens.len();
                        self.wrong(format!(
                            "request {request}: {seen} tokens from {from} on were seen and are not logged"
                        ));
                    }
                }
                Logged::Ended { .. } if life.ended.is_none() => {
                    self.wrong(format!("request {request}: an end was seen and is not logged"));
                }
                Logged::Ended { .. } => {
                    self.doors[door].holds.get_mut(&slot).unwrap().seen_end = true;
                    let (seen, known) = (self.doors[door].holds[&slot].seen, life.tokens.len());
                    if seen.is_some_and(|seen| seen < known) {
                        self.wrong(format!("request {request}: {seen:?} tokens were seen of {known}"));
                    }
                }
                _ => {}
            }
        }
    }

    /// A run begins behind these tokens: all that its owner's log has.
    pub fn begins(&mut self, request: usize, life: &Life, generated: &[LoggedToken]) {
        if generated != right_tokens(request, 0..generated.len() as u32) {
            self.wrong(format!("request {request}: a run begins behind wrong tokens"));
        }
        if life.died_alone {
            self.wrong(format!("request {request}: it runs although an owner died with it alone"));
        }
    }

    /// Its callback was called.
    pub fn told(&mut self, request: usize) {
        self.asked[request].told += 1;
        if self.life(request).ended.is_none() {
            self.wrong(format!("request {request}: its end was told before it was logged"));
        }
    }

    /// A job is said to be done: it is, or it is a second job of a request that has one.
    pub fn settled(&mut self, who: Who, job: u64) {
        let held = &self.doors[who.0].holds[&who.2];
        let (request, unseen) = (held.request, held.seen.is_some() && !held.seen_end);
        if self.asked[request].finished_by == Some(who) && unseen {
            self.wrong(format!("request {request}: who waits for it here has not seen its end"));
        }
        let life = self.life(request);
        if life.delivered.is_none() && life.job.is_none_or(|owned| owned == job) {
            self.wrong(format!("request {request}: its job is done, and it is not"));
        }
    }

    /// Nothing happens any more.
    pub fn check_end(&mut self) {
        for request in 0..self.asked.len() {
            self.check_request(request);
        }
        let jobs = self.store.jobs(&Self::queue());
        let held: usize = self.doors.iter().map(|door| door.holds.len()).sum();
        if jobs + held as u64 > 0 {
            self.wrong(format!("{jobs} jobs are left, {held} of them held"));
        }
    }

    fn check_request(&mut self, request: usize) {
        let life = self.life(request);
        let asked = &self.asked[request];
        let (length, deadline, cancelled) = (asked.length as usize, asked.deadline, asked.cancelled);
        let (untold, poison) = (asked.callback && asked.told == 0, asked.poison);
        if !asked.accepted {
            self.wrong(format!("request {request} was never accepted"));
            return;
        }
        if life.tokens != right_tokens(request, 0..life.tokens.len() as u32) {
            self.wrong(format!("request {request}: the log's tokens are wrong"));
        }
        let made = life.tokens.len();
        match &life.ended {
            None => self.wrong(format!("request {request} has not ended: {life:?}")),
            Some((Ok(_), _)) if made != length => self.wrong(format!("request {request}: {made} tokens of {length}")),
            Some((Ok(_), _)) if poison.is_some() => {
                self.wrong(format!("request {request} ended well, and nothing that runs it lives"));
            }
            Some((Ok(_), _)) if life.prompt_tokens != Some(right_prompt(request)) => {
                self.wrong(format!("request {request}: its prompt has {:?} tokens", life.prompt_tokens));
            }
            Some((Ok(_), _)) => {}
            Some((Err(fault), at)) => match fault.class {
                FaultClass::Cancelled if cancelled => {}
                FaultClass::DeadlineExceeded if deadline <= *at => self.mark("a deadline passed"),
                // It takes three owners, whatever ended them.
                FaultClass::Internal if life.deaths > 2 => self.mark("a request was given up"),
                _ => self.wrong(format!("request {request} ended with {fault}, {} deaths", life.deaths)),
            },
        }
        match &life.delivered {
            None => self.wrong(format!("request {request}: nobody says that its end was told")),
            Some(None) if untold => self.wrong(format!("request {request}: its end was not told")),
            Some(_) => {}
        }
    }
}
