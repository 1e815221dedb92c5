//! Rows for one stage alone, past the door: a sequence that is opened, run and closed by somebody who is at once the stage's
//! upstream, its downstream and the sequence's door.
//!
//! The stage cannot tell: it speaks the protocol that it speaks with everyone, so that such rows share batches, credit and KV
//! blocks with all others. Nothing between the two is ever lost, since both are in one process.

use crate::link::{ItemKind, LinkReceiver, Receipt, Room, SenderNews};
use crate::machine::StageSetup;
use crate::message::{Body, Feedback, FrameContent, LinkMail, Report, Segment};
use crate::out_link::{OutLink, item};
use crate::planted::Planted;
use crate::{Emission, Observed, Opening, Sampling, Work};
use bytes::BytesMut;
use stageline_base::{Fault, FaultClass, HostDType, HostTensor, ReplicaId, SequenceId, Task, Tick, TokenId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most runs at once; a stage refuses more than its `max_num_seqs` anyway.
const MAX_RUNS: usize = 4096;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct DirectRun {
    /// For log lines.
    pub call_id: String,
    /// Positions 0, 1, 2 …: token ids `[rows, 1]` at stage 0, activations `[rows, hidden]` after it.
    pub input: HostTensor,
    /// At the last stage: how many of the largest logits to report.
    pub top_logits: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct DirectOutput {
    /// Activations `[rows, hidden]`; at the last stage the next token's id `[1, 1]`, or an encoder's vector `[1, hidden]`.
    pub output: HostTensor,
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
    input: HostTensor,
    sent: u32,
    /// Activations that came back, in order.
    output: BytesMut,
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
        let back = LinkReceiver::new(Room::of(rows, setup.stage.row_bytes_out));
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
        let known = self.checked(&run).map_err(|fault| fault.at_stage(stage))?;
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
            work,
            capacity_tokens: known.len() as u32,
            known,
        };
        self.runs.insert(sequence, Running { input: run.input, sent: 0, output: BytesMut::new() });
        let content = FrameContent::Open(Arc::new(opening));
        self.send_control(now, sequence, ItemKind::Open, content, out);
        Ok(sequence)
    }

    /// The ids that the rows stand for (unknown ones are 0), if the stage takes the rows.
    fn checked(&self, run: &DirectRun) -> Result<Vec<TokenId>, Fault> {
        let setup = &self.setup;
        let [rows, columns] = run.input.shape;
        if rows == 0 || rows > setup.max_rows as usize {
            return Err(Fault::invalid(format!("`input` may have 1 to {} rows, not {rows}", setup.max_rows)));
        }
        let first = setup.stage.stage == 0;
        let (dtype, words) =
            if first { (HostDType::U32, "token ids, U32") } else { (HostDType::F32, "activations, F32") };
        let width = setup.stage.row_bytes_in / 4;
        if run.input.dtype != dtype || columns as u64 != width {
            let stage = setup.stage.stage;
            return Err(Fault::invalid(format!("`input` of stage {stage} must be {words} of {width} columns")));
        }
        if !first {
            return Ok(vec![0; rows]);
        }
        let known: Vec<TokenId> = run.input.words().collect();
        match known.iter().find(|id| **id >= setup.vocab) {
            Some(id) => Err(Fault::invalid(format!("the model of {} tokens has no token {id}", setup.vocab))),
            None => Ok(known),
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
                let outcome = match emission {
                    Emission::Token { id, observed } => {
                        Ok(DirectOutput { output: HostTensor::tokens(&[id]), observed })
                    }
                    Emission::Vector(values) => {
                        let bytes: BytesMut = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                        let output = HostTensor::activations(1, values.len(), bytes.freeze());
                        let missing = || Fault::internal("a vector's bytes do not fit its length");
                        output.map(|output| DirectOutput { output, observed: None }).ok_or_else(missing)
                    }
                };
                self.ended(now, sequence, outcome, out);
            }
        }
    }

    fn on_link(&mut self, now: Tick, mail: LinkMail, out: &mut Vec<DirectAction>) {
        let room = match &mail {
            LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. } => {
                Room { rows: payload.rows() as u64, bytes: payload.bytes.len() as u64 }
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

    fn came_back(&mut self, now: Tick, segments: &[Segment], payload: &HostTensor, out: &mut Vec<DirectAction>) {
        let mut at = 0;
        for segment in segments {
            let rows = segment.rows as usize;
            let Some(run) = self.runs.get_mut(&segment.sequence) else {
                at += rows;
                continue;
            };
            run.output.extend_from_slice(&payload.slice_rows(at, rows).bytes);
            at += rows;
            if segment.start as usize + rows == run.input.rows() {
                let (rows, bytes) = (run.input.rows(), std::mem::take(&mut run.output).freeze());
                let output = HostTensor::activations(rows, payload.shape[1], bytes);
                let missing = || Fault::internal("rows of the run are missing");
                let outcome = output.map(|output| DirectOutput { output, observed: None }).ok_or_else(missing);
                self.ended(now, segment.sequence, outcome, out);
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
        let row_bytes = self.setup.stage.row_bytes_in;
        let last = self.setup.stage.stage + 1 == self.setup.stage.stages;
        while let Some(sequence) = self.unsent.front().copied() {
            let (Some(run), Some(link)) = (self.runs.get_mut(&sequence), &mut self.link) else {
                self.unsent.pop_front();
                continue;
            };
            let left = run.input.rows() as u64 - u64::from(run.sent);
            let rows = link.credit().grants(left, row_bytes, self.setup.task.is_whole());
            if rows == 0 {
                return;
            }
            let (start, door) = (run.sent, self.setup.me.clone());
            let items = vec![item(sequence, 0, &door, ItemKind::Rows(start))];
            let Some((epoch, number)) = link.number_rows(now, items, Room::of(rows, row_bytes)) else {
                return;
            };
            run.sent += rows as u32;
            let emit = rows == left && (last || self.setup.task.is_whole());
            let segments = vec![Segment { sequence, attempt: 0, door, start, rows: rows as u32, emit }];
            let content = FrameContent::Rows { segments, payload: run.input.slice_rows(start as usize, rows as usize) };
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
