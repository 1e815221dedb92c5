//! Both ends of a link: one ordered, numbered stream from a sender to a receiver, with credit.
//!
//! All numbers that the receiver sends are cumulative within an epoch, so a lost, repeated or late reply does no harm.
//! A hole in the stream breaks its epoch; the sender then opens a new one and learns what was lost from its Welcome.

use crate::message::{LinkMail, LinkReply};
use crate::planted::Planted;
pub use crate::room::Room;
use stageline_base::{Attempt, Position, ReplicaId, SequenceId, Tick};
use std::collections::VecDeque;
use std::time::Duration;

/// After this long without news of unacknowledged frames, the sender asks.
pub const PROBE_AFTER: Duration = Duration::from_millis(200);
/// Probes unanswered before the sender gives the epoch up.
const PROBES: u32 = 5;
/// First wait before a Hello is sent again; it doubles up to [`HELLO_MOST`].
const HELLO_AGAIN: Duration = Duration::from_millis(100);
/// Longest wait between two Hellos.
const HELLO_MOST: Duration = Duration::from_millis(1000);

/// Most epochs that a sender skips when a receiver says that it has fallen behind.
const CATCH_UP: u32 = 256;

/// What an unacknowledged frame spoke of: enough to tell doors what was lost, without any payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sequence.
    pub sequence: SequenceId,
    /// The attempt.
    pub attempt: Attempt,
    /// Its door.
    pub door: ReplicaId,
    /// What of it.
    pub kind: ItemKind,
}

/// What of a sequence a frame carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// Its Open.
    Open,
    /// Rows from this position.
    Rows(Position),
    /// Its Close.
    Close,
}

/// What a sender asks of its owner.
#[derive(Debug, Default)]
pub struct SenderNews {
    /// To be sent on the link, in order.
    pub mail: Vec<LinkMail>,
    /// What was lost.
    pub lost: Vec<Item>,
    /// From a frame's sending to its acknowledgement, each frame.
    pub acknowledged: Vec<Duration>,
}

#[derive(Debug)]
enum Phase {
    Greeting { since: Tick, next: Tick, wait: Duration },
    Live { probe_at: Tick, unanswered: u32 },
}

/// The sending end.
#[derive(Debug)]
pub struct LinkSender {
    epoch: u32,
    phase: Phase,
    sent: u64,
    /// Number, when it was sent, and what it spoke of.
    unacked: VecDeque<(u64, Tick, Vec<Item>)>,
    granted: Room,
    used: Room,
    returned: Room,
    planted: Planted,
}

impl LinkSender {
    /// A new link; it says Hello at the first [`LinkSender::poll`]. `epoch` is above any that its receiver may know.
    pub fn new(now: Tick, epoch: u32, planted: Planted) -> Self {
        Self {
            epoch,
            phase: Phase::Greeting { since: now, next: now, wait: HELLO_AGAIN },
            sent: 0,
            unacked: VecDeque::new(),
            granted: Room::default(),
            used: Room::default(),
            returned: Room::default(),
            planted,
        }
    }

    /// The epoch that it is in, or greets for.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether frames may be sent.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// Since when the receiver has not answered its greetings.
    pub fn greets_since(&self) -> Option<Tick> {
        match self.phase {
            Phase::Greeting { since, .. } => Some(since),
            Phase::Live { .. } => None,
        }
    }

    /// Room at the receiver that is not spoken for; none while greeting.
    pub fn credit(&self) -> Room {
        if self.is_live() { self.granted.plus(self.returned).less(self.used) } else { Room::default() }
    }

    /// Frames sent and not yet acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Numbers a frame that carries `items` and takes `room`; the caller has checked [`LinkSender::is_live`] and the credit.
    pub fn number(&mut self, now: Tick, items: Vec<Item>, room: Room) -> (u32, u64) {
        self.sent += 1;
        self.used = self.used.plus(room);
        if self.unacked.is_empty()
            && let Phase::Live { probe_at, unanswered } = &mut self.phase
        {
            *probe_at = now + PROBE_AFTER;
            *unanswered = 0;
        }
        self.unacked.push_back((self.sent, now, items));
        (self.epoch, self.sent)
    }

    /// When [`LinkSender::poll`] has something to do next.
    pub fn next_deadline(&self) -> Option<Tick> {
        match self.phase {
            Phase::Greeting { next, .. } => Some(next),
            Phase::Live { probe_at, .. } => self.is_asking().then_some(probe_at),
        }
    }

    /// Says Hello or probes, if it is time.
    pub fn poll(&mut self, now: Tick, news: &mut SenderNews) {
        let asking = self.is_asking();
        match &mut self.phase {
            Phase::Greeting { next, wait, .. } if *next <= now => {
                news.mail.push(LinkMail::Hello { epoch: self.epoch });
                *next = now + *wait;
                *wait = (*wait * 2).min(HELLO_MOST);
            }
            Phase::Live { probe_at, unanswered } if *probe_at <= now && asking => {
                if *unanswered >= PROBES {
                    self.new_epoch(now);
                    return self.poll(now, news);
                }
                *unanswered += 1;
                *probe_at = now + PROBE_AFTER;
                news.mail.push(LinkMail::Probe { epoch: self.epoch, sent: self.sent });
            }
            _ => {}
        }
    }

    /// Takes in what the receiver says.
    pub fn on_reply(&mut self, now: Tick, reply: LinkReply, news: &mut SenderNews) {
        match reply {
            LinkReply::Welcome { epoch, before, got, credit_rows, credit_bytes } => {
                if epoch != self.epoch || self.is_live() {
                    return;
                }
                // What is unacknowledged was sent in the epoch before; if the receiver does not know that one, all is lost.
                let got = if before + 1 == epoch { got } else { 0 };
                for (number, _, items) in self.unacked.drain(..) {
                    if number > got {
                        news.lost.extend(items);
                    }
                }
                self.sent = 0;
                self.granted = Room { rows: credit_rows, bytes: credit_bytes };
                self.used = Room::default();
                self.returned = Room::default();
                self.phase = Phase::Live { probe_at: now + PROBE_AFTER, unanswered: 0 };
            }
            LinkReply::State { epoch, .. } if epoch > self.epoch && !self.is_live() => {
                // In steps, so that a reply that lies takes it no further than its next lease record makes up for.
                self.epoch = epoch.min(self.epoch.saturating_add(CATCH_UP - 1)).saturating_add(1);
                self.phase = Phase::Greeting { since: now, next: now, wait: HELLO_AGAIN };
                self.poll(now, news);
            }
            LinkReply::State { epoch, got, returned_rows, returned_bytes, broken } => {
                let Phase::Live { probe_at, unanswered } = &mut self.phase else { return };
                if epoch != self.epoch {
                    return;
                }
                // Late replies hold smaller numbers: the largest of each is the newest.
                self.returned.rows = self.returned.rows.max(returned_rows);
                self.returned.bytes = self.returned.bytes.max(returned_bytes);
                *probe_at = now + PROBE_AFTER;
                *unanswered = 0;
                while self.unacked.front().is_some_and(|(number, ..)| *number <= got)
                    && let Some((_, sent, _)) = self.unacked.pop_front()
                {
                    news.acknowledged.push(now.since(sent));
                }
                if broken {
                    self.new_epoch(now);
                    self.poll(now, news);
                }
            }
        }
    }

    /// The transport lost its connection or says that nobody listens: what is unacknowledged is lost.
    pub fn on_unreachable(&mut self, now: Tick, news: &mut SenderNews) {
        for (_, _, items) in self.unacked.drain(..) {
            news.lost.extend(items);
        }
        match &mut self.phase {
            Phase::Live { .. } => {
                self.new_epoch(now);
                // The peer was not there a moment ago: greet after a pause, or this would spin against a dead subject.
                self.phase = Phase::Greeting { since: now, next: now + HELLO_AGAIN, wait: HELLO_AGAIN * 2 };
            }
            Phase::Greeting { next, wait, .. } => *next = (*next).max(now + *wait),
        }
    }

    /// The connection was lost and is back: what was on its way may be lost, the Welcome will tell.
    pub fn on_reconnect(&mut self, now: Tick) {
        if self.is_live() {
            self.new_epoch(now);
        }
    }

    /// Ends the link; what is unacknowledged is lost.
    pub fn into_lost(self) -> Vec<Item> {
        self.unacked.into_iter().flat_map(|(_, _, items)| items).collect()
    }

    fn is_asking(&self) -> bool {
        !self.unacked.is_empty() && self.planted != Planted::NeverProbe
    }

    fn new_epoch(&mut self, now: Tick) {
        self.epoch = self.epoch.saturating_add(1);
        self.phase = Phase::Greeting { since: now, next: now, wait: HELLO_AGAIN };
    }
}

/// What a receiver makes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Receipt {
    /// A frame, in order: take its content in.
    Take,
    /// Nothing to take in; answer with this.
    Answer(LinkReply),
    /// Late, repeated or of a broken epoch.
    Drop,
}

/// The receiving end.
#[derive(Debug)]
pub struct LinkReceiver {
    window: Room,
    queued: Room,
    epoch: u32,
    welcome: LinkReply,
    got: u64,
    broken: bool,
    returned: Room,
    planted: Planted,
}

impl LinkReceiver {
    /// A link whose sender may have `window` queued here.
    pub fn new(window: Room) -> Self {
        let welcome = LinkReply::Welcome { epoch: 0, before: 0, got: 0, credit_rows: 0, credit_bytes: 0 };
        Self {
            window,
            queued: Room::default(),
            epoch: 0,
            welcome,
            got: 0,
            broken: false,
            returned: Room::default(),
            planted: Planted::None,
        }
    }

    /// Plants a defect, for tests.
    pub fn with_planted(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    /// Judges a message; a frame that takes `room`.
    pub fn on_mail(&mut self, mail: &LinkMail, room: Room) -> Receipt {
        match *mail {
            LinkMail::Hello { epoch } => {
                if epoch < self.epoch {
                    // Late, or its sender has fallen behind, since somebody else has spoken in its name: then it must hear.
                    let told = self.planted != Planted::LeaveBehind;
                    return if told { Receipt::Answer(self.state()) } else { Receipt::Drop };
                }
                if epoch > self.epoch {
                    let credit = self.window.less(self.queued);
                    self.welcome = LinkReply::Welcome {
                        epoch,
                        before: self.epoch,
                        got: self.got,
                        credit_rows: credit.rows,
                        credit_bytes: credit.bytes,
                    };
                    self.epoch = epoch;
                    self.got = 0;
                    self.broken = false;
                    self.returned = Room::default();
                }
                // A repeated Hello must be told the same again, not the state that has come since.
                Receipt::Answer(self.welcome)
            }
            LinkMail::Probe { epoch, sent } => {
                if epoch != self.epoch {
                    return Receipt::Drop;
                }
                self.broken |= sent > self.got && self.planted != Planted::IgnoreGap;
                Receipt::Answer(self.state())
            }
            LinkMail::Frame { epoch, number, .. } => {
                if epoch != self.epoch || number <= self.got || self.broken {
                    return Receipt::Drop;
                }
                // A sender that overruns its credit is treated as a hole: the window is a bound, not a wish.
                let hole = number != self.got + 1 && self.planted != Planted::IgnoreGap;
                if hole || !self.window.less(self.queued).holds(room) {
                    self.broken = true;
                    return Receipt::Answer(self.state());
                }
                self.got = number;
                self.queued = self.queued.plus(room);
                Receipt::Take
            }
        }
    }

    /// Rows have left the queue: run, dropped or refused. Some may be of a link before, whose sender was taken for dead: no more
    /// is given back than this one has taken.
    pub fn give_back(&mut self, room: Room) {
        let left = self.queued.less(room);
        self.returned = self.returned.plus(self.queued.less(left));
        self.queued = left;
    }

    /// Rows that are queued here.
    pub fn queued(&self) -> Room {
        self.queued
    }

    /// The epoch that it is in; 0 before the first Hello.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How the epoch stands.
    pub fn state(&self) -> LinkReply {
        LinkReply::State {
            epoch: self.epoch,
            got: self.got,
            returned_rows: self.returned.rows,
            returned_bytes: self.returned.bytes,
            broken: self.broken,
        }
    }
}
