//! The sending end of a link together with what waits for it: Opens and Closes for a greeting to end, rows for credit.

use crate::link::{Item, ItemKind, LinkSender, Room, SenderNews};
use crate::message::{FrameContent, LinkMail, LinkReply};
use crate::planted::Planted;
use stageline_base::{Attempt, ReplicaId, SequenceId, Tick};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub struct OutLink {
    sender: LinkSender,
    waiting: VecDeque<(Item, FrameContent)>,
    reserved: Room,
}

impl OutLink {
    /// A link that greets at its first [`OutLink::poll`], for `epoch`.
    pub fn new(now: Tick, epoch: u32, planted: Planted) -> Self {
        Self { sender: LinkSender::new(now, epoch, planted), waiting: VecDeque::new(), reserved: Room::default() }
    }

    /// Sends an Open or a Close, at once or as soon as the greeting is over.
    pub fn send_control(&mut self, now: Tick, item: Item, content: FrameContent, news: &mut SenderNews) {
        self.waiting.push_back((item, content));
        self.flush(now, news);
    }

    /// Credit that no batch on its way has reserved.
    pub fn credit(&self) -> Room {
        self.sender.credit().less(self.reserved)
    }

    /// Sets credit aside for a batch's outputs.
    pub fn reserve(&mut self, room: Room) {
        self.reserved = self.reserved.plus(room);
    }

    /// Ends a reservation, used or not.
    pub fn unreserve(&mut self, room: Room) {
        self.reserved = self.reserved.less(room);
    }

    /// Numbers a frame of rows; `None` if the link has no credit for it, as when its epoch ended under a reservation.
    pub fn number_rows(&mut self, now: Tick, items: Vec<Item>, room: Room) -> Option<(u32, u64)> {
        self.sender.credit().holds(room).then(|| self.sender.number(now, items, room))
    }

    /// The epoch that it is in, or greets for.
    pub fn epoch(&self) -> u32 {
        self.sender.epoch()
    }

    /// Since when the receiver has not answered its greetings.
    pub fn greets_since(&self) -> Option<Tick> {
        self.sender.greets_since()
    }

    /// When [`OutLink::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.sender.next_deadline()
    }

    /// Whether nothing is on its way or waits.
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.sender.unacked() == 0
    }

    /// Greets or probes, if it is time.
    pub fn poll(&mut self, now: Tick, news: &mut SenderNews) {
        self.with_sender(now, news, |sender, news| sender.poll(now, news));
    }

    /// Takes in what the receiver says.
    pub fn on_reply(&mut self, now: Tick, reply: LinkReply, news: &mut SenderNews) {
        self.with_sender(now, news, |sender, news| sender.on_reply(now, reply, news));
    }

    /// Nobody listened to something sent.
    pub fn on_unreachable(&mut self, now: Tick, news: &mut SenderNews) {
        self.with_sender(now, news, |sender, news| sender.on_unreachable(now, news));
    }

    /// The connection was lost and is back.
    pub fn on_reconnect(&mut self, now: Tick, news: &mut SenderNews) {
        self.with_sender(now, news, |sender, news| {
            sender.on_reconnect(now);
            sender.poll(now, news);
        });
    }

    /// Ends the link: the receiver is gone, and with it all that was unacknowledged or waited.
    pub fn into_lost(self) -> Vec<Item> {
        let waiting = self.waiting.into_iter().map(|(item, _)| item);
        let mut lost = self.sender.into_lost();
        lost.extend(waiting);
        lost
    }

    /// Lets `act` work on the sender. Closes that it reports lost are sent again here; its owner hears of the rest.
    fn with_sender(&mut self, now: Tick, news: &mut SenderNews, act: impl FnOnce(&mut LinkSender, &mut SenderNews)) {
        let heard = news.lost.len();
        act(&mut self.sender, news);
        let lost = news.lost.split_off(heard);
        let (closes, others): (Vec<Item>, Vec<Item>) = lost.into_iter().partition(|item| item.kind == ItemKind::Close);
        news.lost.extend(others);
        for item in closes {
            let content = FrameContent::Close { sequence: item.sequence, attempt: item.attempt };
            self.waiting.push_back((item, content));
        }
        self.flush(now, news);
    }

    fn flush(&mut self, now: Tick, news: &mut SenderNews) {
        while self.sender.is_live()
            && let Some((item, content)) = self.waiting.pop_front()
        {
            let (epoch, number) = self.sender.number(now, vec![item], Room::default());
            news.mail.push(LinkMail::Frame { epoch, number, content });
        }
    }
}

/// An item that speaks of one sequence.
pub fn item(sequence: SequenceId, attempt: Attempt, door: &ReplicaId, kind: ItemKind) -> Item {
    Item { sequence, attempt, door: door.clone(), kind }
}
