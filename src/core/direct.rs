//! Rows for one stage alone, past the door: a sequence that is opened, run and closed by somebody who is at once the stage's
//! upstream, its downstream and the sequence's door.
//!
//! The stage cannot tell: it speaks the protocol that it speaks with everyone, so that such rows share batches, credit and KV
//! blocks with all others. Nothing between the two is ever lost, since both are in one process.

use crate::link::{ItemKind, LinkReceiver, Receipt, Room, SenderNews};
use crate::machine::StageSetup;
use crate::message::{Body, Feedback, FrameContent, LinkMail, Report, Segment, rows_of};
use crate::out_link::{OutLink, item};
use crate::planted::Planted;
use crate::{Emission, Observed, Opening, Sampling, Work};
use stageline_base::{Fault, FaultClass, ReplicaId, SequenceId, Takes, Task, Tensors, Tick, TokenId, Trace};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most runs at once; a stage refuses more than its `max_num_seqs` anyway.
const MAX_RUNS: usize = 4096;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct DirectRun {
    /// For log lines.
    pub call_id: String,
    /// For log lines, too.
    pub trace: Trace,
    /// What crosses in front of the stage, of positions 0, 1, 2 …, in any order; what has no name goes by its place.
    pub input: Tensors,
    /// At the last stage: how many of the largest logits to report.
    pub top_logits: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct DirectOutput {
    /// What crosses behind the stage; at the last one the next token's id, `[1, 1]`, or the answer.
    pub output: Tensors,
    /// The logits behind the token.
    pub observed: Option<Observed>,
}

/// What is to be done.
#[derive(Debug)]
pub enum DirectAction {
    /// To be given to the stage, as from [`DirectMachine::me`].
    Send(Body),
    /// A run has ended.
    Done(SequenceId, Result<DirectOutput, Fault>),
}

/// What the stage that is run is like.
#[derive(Clone, Debug)]
pub struct DirectSetup {
    /// Who runs: a replica's id of its own.
    pub me: ReplicaId,
    /// The stage.
    pub stage: StageSetup,
    /// Tokens of the model.
    pub vocab: u32,
    /// What the model does.
    pub task: Task,
    /// Most rows of a run.
    pub max_rows: u32,
}

struct Running {
    input: Tensors,
    rows: u32,
    sent: u32,
    /// What came back, in order.
    output: Vec<Tensors>,
}

/// See the module.
pub struct DirectMachine {
    setup: DirectSetup,
    counter: u64,
    runs: BTreeMap<SequenceId, Running>,
    /// Opened, with rows that wait for credit.
    unsent: VecDeque<SequenceId>,
    /// To the stage; made by the first run.
    link: Option<OutLink>,
    /// From the stage.
    back: LinkReceiver,
}

impl DirectMachine {
    /// Nothing runs.
    pub fn new(setup: DirectSetup) -> Self {
        // What comes back is taken in at once, so the window only has to hold what a stage may send together.
        let rows = setup.stage.window.rows;
        let back = LinkReceiver::new(Room { rows, bytes: u64::MAX });
        Self { setup, counter: 0, runs: BTreeMap::new(), unsent: VecDeque::new(), link: None, back }
    }

    /// Who runs.
    pub fn me(&self) -> &ReplicaId {
        &self.setup.me
    }

    /// Opens a sequence for `run`.
    ///
    /// # Errors
    /// `InvalidRequest` for rows that the stage does not take, `Overloaded` when too much runs.
    pub fn submit(&mut self, now: Tick, run: DirectRun, out: &mut Vec<DirectAction>) -> Result<SequenceId, Fault> {
        let stage = self.setup.stage.stage;
        let (rows, known, input) = self.checked(run.input).map_err(|fault| fault.at_stage(stage))?;
        if self.runs.len() >= MAX_RUNS {
            return Err(
                Fault::new(FaultClass::Overloaded, "too many direct runs wait: try again later").at_stage(stage)
            );
        }
        self.counter += 1;
        let sequence = SequenceId { boot: self.setup.me.boot(), counter: self.counter };
        let mut path = vec![self.setup.me.clone(); usize::from(self.setup.stage.stages)];
        path[usize::from(stage)] = self.setup.stage.me.clone();
        let work = Work::of(self.setup.task, Sampling { top_logits: run.top_logits, ..Sampling::GREEDY });
        let opening = Opening {
            sequence,
            attempt: 0,
            door: self.setup.me.clone(),
            path,
            call_id: run.call_id,
            trace: run.trace,
            work,
            capacity_tokens: rows,
            known,
        };
        self.runs.insert(sequence, Running { input, rows, sent: 0, output: Vec::new() });
        let content = FrameContent::Open(Arc::new(opening));
        self.send_control(now, sequence, ItemKind::Open, content, out);
        Ok(sequence)
    }

    /// The rows, the ids that they stand for (unknown ones are 0), and all of it in order, if the stage takes it.
    fn checked(&self, input: Tensors) -> Result<(u32, Vec<TokenId>, Tensors), Fault> {
        let DirectSetup { stage: StageSetup { takes, stage, .. }, max_rows, vocab, task, .. } = &self.setup;
        let Some((rows, input)) = takes.brought(input) else {
            return Err(Fault::invalid(format!("`input` of stage {stage} must be {takes}")));
        };
        if !(1..=u64::from(*max_rows)).contains(&rows) {
            return Err(Fault::invalid(format!("`input` may have 1 to {max_rows} rows, not {rows}")));
        }
        if !takes.is_tokens() {
            let stands_for_ids = task.takes == Takes::Tokens;
            let known = if stands_for_ids { vec![0; rows as usize] } else { Vec::new() };
            return Ok((rows as u32, known, input));
        }
        let known: Vec<TokenId> = input.iter().flat_map(|ids| ids.tensor.words()).collect();
        match known.iter().find(|id| **id >= *vocab) {
            Some(id) => Err(Fault::invalid(format!("the model of {vocab} tokens has no token {id}"))),
            None => Ok((rows as u32, known, input)),
        }
    }

    /// Whoever wanted `sequence` does not want it any more.
    pub fn cancel(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DirectAction>) {
        if self.runs.contains_key(&sequence) {
            self.close(now, sequence, out);
        }
    }

    /// Greets again, if it is time.
    pub fn on_time(&mut self, now: Tick, out: &mut Vec<DirectAction>) {
        self.with_link(out, |link, news| link.poll(now, news));
    }

    /// When [`DirectMachine::on_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.link.as_ref().and_then(OutLink::next_deadline)
    }

    /// Takes in what the stage says.
    pub fn on(&mut self, now: Tick, body: Body, out: &mut Vec<DirectAction>) {
        match body {
            Body::Reply(reply) => {
                self.with_link(out, |link, news| link.on_reply(now, reply, news));
                self.send_rows(now, out);
            }
            Body::Link(mail) => self.on_link(now, mail, out),
            Body::Feedback(Feedback { number, reports, .. }) => {
                out.push(DirectAction::Send(Body::FeedbackAck { number }));
                for report in reports {
                    self.on_report(now, report, out);
                }
            }
            // Acknowledgements of what is never sent from here, and what only a transport answers.
            Body::FeedbackAck { .. } | Body::CloseNow { .. } | Body::CloseAck { .. } | Body::Ping => {}
        }
    }

    fn on_report(&mut self, now: Tick, report: Report, out: &mut Vec<DirectAction>) {
        match report {
            Report::Opened { sequence, .. } => self.opened(now, sequence, out),
            Report::Refused { sequence, fault, .. } | Report::Failed { sequence, fault, .. } => {
                self.ended(now, sequence, Err(fault), out);
            }
            Report::Emitted { sequence, emission, .. } => {
                let output = match emission {
                    Emission::Token { id, observed } => DirectOutput { output: Tensors::tokens(&[id]), observed },
                    Emission::Tensors(output) => DirectOutput { output, observed: None },
                };
                self.ended(now, sequence, Ok(output), out);
            }
        }
    }

    fn on_link(&mut self, now: Tick, mail: LinkMail, out: &mut Vec<DirectAction>) {
        let room = match &mail {
            LinkMail::Frame { content: FrameContent::Rows { segments, payload }, .. } => {
                Room { rows: rows_of(segments), bytes: payload.bytes() }
            }
            _ => Room::default(),
        };
        match (self.back.on_mail(&mail, room), mail) {
            (Receipt::Answer(reply), _) => out.push(DirectAction::Send(Body::Reply(reply))),
            (Receipt::Take, LinkMail::Frame { content, .. }) => {
                self.back.give_back(room);
                out.push(DirectAction::Send(Body::Reply(self.back.state())));
                match content {
                    FrameContent::Open(opening) => self.opened(now, opening.sequence, out),
                    FrameContent::Rows { segments, payload } => self.came_back(now, &segments, &payload, out),
                    FrameContent::Close { .. } => {}
                }
            }
            _ => {}
        }
    }

    fn came_back(&mut self, now: Tick, segments: &[Segment], payload: &Tensors, out: &mut Vec<DirectAction>) {
        let cut = segments.len() > 1;
        let mut at = 0;
        for segment in segments {
            let rows = segment.rows as usize;
            let part = if cut { payload.slice_rows(at, rows) } else { payload.clone() };
            at += rows;
            let Some(run) = self.runs.get_mut(&segment.sequence) else { continue };
            run.output.push(part);
            if segment.start + segment.rows == run.rows {
                let output = Tensors::joined(std::mem::take(&mut run.output));
                self.ended(now, segment.sequence, Ok(DirectOutput { output, observed: None }), out);
            }
        }
    }

    fn opened(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DirectAction>) {
        if self.runs.contains_key(&sequence) {
            self.unsent.push_back(sequence);
            self.send_rows(now, out);
        }
    }

    /// Sends as many rows as the stage gives credit for, a run after the other.
    fn send_rows(&mut self, now: Tick, out: &mut Vec<DirectAction>) {
        let last = self.setup.stage.stage + 1 == self.setup.stage.stages;
        let whole = self.setup.task.is_whole();
        while let Some(sequence) = self.unsent.front().copied() {
            let takes = &self.setup.stage.takes;
            let (Some(run), Some(link)) = (self.runs.get_mut(&sequence), &mut self.link) else {
                self.unsent.pop_front();
                continue;
            };
            let left = run.rows - run.sent;
            let rows = link.credit().grants(left.into(), takes, whole) as u32;
            if rows == 0 {
                return;
            }
            let (start, door) = (run.sent, self.setup.me.clone());
            let items = vec![item(sequence, 0, &door, ItemKind::Rows(start))];
            let Some((epoch, number)) = link.number_rows(now, items, Room::of(rows, takes)) else {
                return;
            };
            run.sent += rows;
            let emit = rows == left && (last || whole);
            let segments = vec![Segment { sequence, attempt: 0, door, start, rows, emit }];
            let all = rows == run.rows;
            let payload = if all { run.input.clone() } else { run.input.slice_rows(start as usize, rows as usize) };
            let content = FrameContent::Rows { segments, payload };
            out.push(DirectAction::Send(Body::Link(LinkMail::Frame { epoch, number, content })));
            if rows == left {
                self.unsent.pop_front();
            }
        }
    }

    fn ended(
        &mut self,
        now: Tick,
        sequence: SequenceId,
        outcome: Result<DirectOutput, Fault>,
        out: &mut Vec<DirectAction>,
    ) {
        if self.runs.contains_key(&sequence) {
            out.push(DirectAction::Done(sequence, outcome));
            self.close(now, sequence, out);
        }
    }

    fn close(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DirectAction>) {
        self.runs.remove(&sequence);
        self.unsent.retain(|other| *other != sequence);
        self.send_control(now, sequence, ItemKind::Close, FrameContent::Close { sequence, attempt: 0 }, out);
    }

    fn send_control(
        &mut self,
        now: Tick,
        sequence: SequenceId,
        kind: ItemKind,
        content: FrameContent,
        out: &mut Vec<DirectAction>,
    ) {
        self.link.get_or_insert_with(|| OutLink::new(now, 1, Planted::None));
        let item = item(sequence, 0, &self.setup.me, kind);
        self.with_link(out, |link, news| {
            link.poll(now, news);
            link.send_control(now, item, content, news);
        });
    }

    fn with_link(&mut self, out: &mut Vec<DirectAction>, act: impl FnOnce(&mut OutLink, &mut SenderNews)) {
        let Some(link) = &mut self.link else { return };
        let mut news = SenderNews::default();
        act(link, &mut news);
        out.extend(news.mail.into_iter().map(|mail| DirectAction::Send(Body::Link(mail))));
        for lost in news.lost {
            let fault = Fault::new(FaultClass::Unavailable, "the stage lost the run's rows: send it again");
            let fault = fault.at_stage(self.setup.stage.stage);
            if self.runs.remove(&lost.sequence).is_some() {
                out.push(DirectAction::Done(lost.sequence, Err(fault)));
            }
        }
    }
}
