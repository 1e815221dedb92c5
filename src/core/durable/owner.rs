//! A door with the job of one durable request.

mod reading;

use super::events::{Delivery, OwnerAction, OwnerEvent, OwnerSetup, Refused};
use super::life::{Life, Logged, LoggedToken, Wall};
use crate::planted::Planted;
use crate::progress::FinishReason;
use stageline_base::{Fault, FaultClass};

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Nothing is known of it yet.
    Reading,
    /// It says in the log that it owns it.
    Claiming,
    /// It waits until it may run alone; until then nothing has been done with it.
    Waiting,
    /// It says in the log that it runs alone.
    Marking,
    /// It runs.
    Running,
    /// The run is over; what is left of it is written.
    Ending,
    /// Who is to be told is told.
    Telling,
    /// The last record is written.
    Finishing,
    /// It lets go, for another to take it after so many milliseconds.
    Releasing(u64),
    /// It is over.
    Over,
}

/// What is on its way to the log.
#[derive(Clone, Debug)]
struct Writing {
    record: Vec<Logged>,
    finishes: bool,
    /// Nobody knows whether it was done: the log is read.
    unsure: bool,
    /// To be asked again at that time.
    again_at: Option<Wall>,
    /// How often that has been written without anybody knowing what became of it.
    unknown: u32,
}

fn cancelled_fault() -> Fault {
    Fault::new(FaultClass::Cancelled, "the request was cancelled")
}

/// The end of a request whose time is over.
pub fn late_fault() -> Fault {
    Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the answer was whole")
}

impl Writing {
    fn new(record: Vec<Logged>, finishes: bool) -> Self {
        Self { record, finishes, unsure: false, again_at: None, unknown: 0 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Owner {
    setup: OwnerSetup,
    life: Life,
    state: State,
    /// What is to be written next.
    waiting: Vec<Logged>,
    writing: Option<Writing>,
    /// Writes so far.
    writes: u64,
    /// Tokens that the run has made, those of before included.
    made: u32,
    /// The log is being read.
    reading: bool,
    beat_at: Wall,
    /// It is to let go as soon as it can.
    release: bool,
}

impl Owner {
    /// Of a job that was just taken.
    pub fn new(now: Wall, setup: OwnerSetup, out: &mut Vec<OwnerAction>) -> Self {
        out.push(OwnerAction::Read { after: 0 });
        let beat_at = Wall(now.0 + setup.beat_ms);
        Self {
            setup,
            life: Life::default(),
            state: State::Reading,
            waiting: Vec::new(),
            writing: None,
            writes: 0,
            made: 0,
            reading: true,
            beat_at,
            release: false,
        }
    }

    /// What the log says, as far as it was read.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// When it is to be told of the time next.
    pub fn next_deadline(&self) -> Wall {
        let deadline = self.life.accepted.as_ref().map(|accepted| accepted.deadline);
        let deadline = deadline.filter(|_| self.is_under_way());
        let again = self.writing.as_ref().and_then(|writing| writing.again_at);
        [Some(self.beat_at), deadline, again].into_iter().flatten().min().unwrap_or(self.beat_at)
    }

    /// Takes `event` in; what is to be done is added to `out`.
    pub fn on(&mut self, now: Wall, event: OwnerEvent, out: &mut Vec<OwnerAction>) {
        if self.is_over() {
            return;
        }
        match event {
            OwnerEvent::Read(records) => self.read(now, records, out),
            // Asked again with the next beat.
            OwnerEvent::NotRead => self.reading = false,
            OwnerEvent::Unreadable => self.unreadable(out),
            OwnerEvent::Written { write, written } if write == self.writes => self.written(now, written, out),
            OwnerEvent::Written { .. } => {}
            OwnerEvent::Turn if self.state == State::Waiting => {
                self.state = State::Marking;
                self.waiting.push(Logged::Alone);
            }
            OwnerEvent::Began(prompt_tokens) if self.state == State::Running => {
                // The same each time that it runs.
                if self.life.prompt_tokens.is_none() {
                    self.waiting.push(Logged::Began { prompt_tokens });
                }
            }
            OwnerEvent::Token(token) if self.state == State::Running => {
                if self.setup.planted == Planted::ShowUnlogged {
                    let from = self.made;
                    out.push(OwnerAction::Show(vec![Logged::Tokens { from, tokens: vec![token.clone()] }]));
                }
                self.token(token);
            }
            OwnerEvent::Answer(tensors) if self.state == State::Running => self.waiting.push(Logged::Answer(tensors)),
            OwnerEvent::RunEnded(outcome) if self.state == State::Running => {
                if self.setup.planted == Planted::TellEarly && self.has_callback() {
                    out.push(OwnerAction::Tell);
                }
                self.ends(now, outcome);
            }
            OwnerEvent::Turn
            | OwnerEvent::Began(_)
            | OwnerEvent::Token(_)
            | OwnerEvent::Answer(_)
            | OwnerEvent::RunEnded(_) => {}
            OwnerEvent::Told(delivery) => self.told(now, delivery, out),
            OwnerEvent::Look => self.look(out),
            OwnerEvent::Release => self.release = true,
            OwnerEvent::Time => {}
        }
        self.go_on(now, out);
    }

    /// Does what is due.
    fn go_on(&mut self, now: Wall, out: &mut Vec<OwnerAction>) {
        if self.is_over() {
            return;
        }
        if self.beat_at <= now {
            self.beat_at = Wall(now.0 + self.setup.beat_ms);
            out.push(OwnerAction::Hold);
            // Somebody may have cancelled it, or taken it over: who appends hears of it, and who does not looks.
            let may_wait = self.writing.as_ref().is_some_and(|writing| !writing.unsure);
            if !may_wait && self.setup.planted != Planted::NeverLook {
                self.look(out);
            }
        }
        if self.is_under_way() && self.is_late(now) {
            self.stop(out);
            self.ends(now, Err(late_fault()));
        }
        if self.release && (self.is_under_way() || self.state == State::Telling) {
            self.let_go(0, out);
        }
        match &mut self.writing {
            Some(writing) if writing.again_at.is_some_and(|at| at <= now) => {
                writing.again_at = None;
                self.write(out);
            }
            Some(_) => {}
            None if !self.waiting.is_empty() => {
                let record = std::mem::take(&mut self.waiting);
                self.writing = Some(Writing::new(record, false));
                self.write(out);
            }
            None => {}
        }
    }

    fn write(&mut self, out: &mut Vec<OwnerAction>) {
        let Some(Writing { record, finishes, .. }) = &self.writing else { return };
        self.writes += 1;
        let (write, after, record) = (self.writes, self.life.last, record.clone());
        out.push(match finishes {
            true => OwnerAction::Finish { write, after, record },
            false => OwnerAction::Append { write, after, record },
        });
    }

    fn look(&mut self, out: &mut Vec<OwnerAction>) {
        if !self.reading {
            self.reading = true;
            out.push(OwnerAction::Read { after: self.life.last });
        }
    }

    fn token(&mut self, token: LoggedToken) {
        let from = self.made;
        self.made += 1;
        match self.waiting.last_mut() {
            Some(Logged::Tokens { tokens, .. }) => tokens.push(token),
            _ => self.waiting.push(Logged::Tokens { from, tokens: vec![token] }),
        }
    }

    /// The run is over, or never begins.
    fn ends(&mut self, now: Wall, outcome: Result<FinishReason, Fault>) {
        self.state = State::Ending;
        self.waiting.push(Logged::Ended { outcome, at: now, deaths: self.life.deaths });
    }

    fn is_late(&self, now: Wall) -> bool {
        self.life.accepted.as_ref().is_some_and(|accepted| accepted.deadline <= now)
    }

    fn has_callback(&self) -> bool {
        self.life.accepted.as_ref().is_some_and(|accepted| accepted.callback)
    }

    /// Whether it runs, or is about to.
    fn is_under_way(&self) -> bool {
        matches!(self.state, State::Waiting | State::Marking | State::Running)
    }

    /// Lets go, for another to take it after so long.
    fn let_go(&mut self, after_ms: u64, out: &mut Vec<OwnerAction>) {
        self.stop(out);
        self.state = State::Releasing(after_ms);
        self.waiting.push(Logged::Released);
    }

    /// Ends the run, if there is one.
    fn stop(&self, out: &mut Vec<OwnerAction>) {
        if self.is_under_way() {
            out.push(OwnerAction::Stop);
        }
    }

    fn over(&mut self, last: OwnerAction, out: &mut Vec<OwnerAction>) {
        self.state = State::Over;
        out.push(last);
    }

    fn written(&mut self, now: Wall, written: Result<u64, Refused>, out: &mut Vec<OwnerAction>) {
        // The log may have told already.
        let Some(mut writing) = self.writing.take() else { return };
        match written {
            Ok(position) => self.wrote(now, position, writing, out),
            Err(Refused::NotNow) => {
                writing.again_at = Some(Wall(now.0 + self.setup.retry_ms));
                self.writing = Some(writing);
            }
            Err(_) if self.setup.planted == Planted::TrustUnsure => self.wrote(now, self.life.last, writing, out),
            // Removed, or ended by another and kept long enough: nothing is left to own.
            Err(Refused::EndsAt(last)) if last < self.life.last => {
                self.stop(out);
                self.over(OwnerAction::Done, out);
            }
            Err(Refused::Unsure | Refused::EndsAt(_)) => {
                writing.unsure = true;
                self.writing = Some(writing);
                self.look(out);
            }
        }
    }

    /// What was written stands at `position`.
    fn wrote(&mut self, now: Wall, position: u64, writing: Writing, out: &mut Vec<OwnerAction>) {
        let Writing { record, finishes, .. } = writing;
        self.life.take(position, &record);
        if finishes {
            // It says nothing new.
            self.over(OwnerAction::Done, out);
            return;
        }
        match self.setup.planted {
            Planted::ShowUnlogged | Planted::ForgetToShow => {}
            Planted::ShowTwice => out.extend([OwnerAction::Show(record.clone()), OwnerAction::Show(record)]),
            _ => out.push(OwnerAction::Show(record)),
        }
        match self.state {
            State::Claiming => self.claimed(now, out),
            State::Ending if self.life.ended.is_some() => self.ended(out),
            // Behind what was being written before, it is on its way.
            State::Releasing(after_ms) if self.waiting.is_empty() => self.over(OwnerAction::Again { after_ms }, out),
            State::Marking if self.waiting.is_empty() => self.begin(out),
            _ => {}
        }
    }

    /// It is ours.
    fn claimed(&mut self, now: Wall, out: &mut Vec<OwnerAction>) {
        let Life { ended, cancelled, deaths, died_alone, .. } = &self.life;
        let (deaths, died_alone) = (*deaths, *died_alone);
        if ended.is_some() {
            self.ended(out);
        } else if self.release {
            self.let_go(0, out);
        } else if *cancelled {
            self.ends(now, Err(cancelled_fault()));
        } else if self.is_late(now) {
            self.ends(now, Err(late_fault()));
        } else if died_alone && self.setup.planted != Planted::ForgetDeaths {
            let message = format!(
                "{deaths} doors ended with this request in hand, the last with nothing else: it is not run again"
            );
            self.ends(now, Err(Fault::internal(message)));
        } else if deaths >= self.setup.alone_after {
            self.state = State::Waiting;
            out.push(OwnerAction::AwaitTurn);
        } else {
            self.begin(out);
        }
    }

    /// Runs it.
    fn begin(&mut self, out: &mut Vec<OwnerAction>) {
        let tokens = &self.life.tokens;
        let generated = if self.setup.planted == Planted::BeginAnew { Vec::new() } else { tokens.clone() };
        self.made = generated.len() as u32;
        self.state = State::Running;
        out.push(OwnerAction::Run { generated });
    }

    /// Its end is in the log.
    fn ended(&mut self, out: &mut Vec<OwnerAction>) {
        if self.setup.planted == Planted::DoneUntold {
            self.over(OwnerAction::Done, out);
        } else if self.has_callback() {
            self.state = State::Telling;
            out.push(OwnerAction::Tell);
        } else {
            self.finish(None, out);
        }
    }

    fn finish(&mut self, given_up: Option<String>, out: &mut Vec<OwnerAction>) {
        self.state = State::Finishing;
        let record = self.life.whole(given_up);
        self.writing = Some(Writing::new(record, true));
        self.write(out);
    }

    fn told(&mut self, now: Wall, delivery: Delivery, out: &mut Vec<OwnerAction>) {
        if self.state != State::Telling {
            return;
        }
        match delivery {
            // Who waits for so long holds nothing meanwhile.
            Delivery::Again(at) => self.let_go(at.0.saturating_sub(now.0), out),
            Delivery::Done => self.finish(None, out),
            Delivery::GivenUp(why) => self.finish(Some(why), out),
        }
    }
}
