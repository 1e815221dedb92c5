//! Parcels over the broker's max_payload: cut into fragments, and put together again within bounds.

use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::fmt;

/// Where a piece belongs. Its text form is the value of the message header [`Fragment::HEADER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The sender's boot nonce.
    pub sender: u64,
    /// The sender's number of the parcel.
    pub parcel: u64,
    /// Which piece, from 0.
    pub index: u32,
    /// How many there are, at least 2.
    pub count: u32,
    /// Length of the parcel.
    pub total_bytes: u64,
}

impl Fragment {
    /// Name of the message header that marks a fragment.
    pub const HEADER: &str = "Stageline-Fragment";
    /// Room in a message for that header: its name, the longest value, and the protocol's own bytes.
    pub const HEADER_BYTES: usize = 160;

    /// Length that this piece must have: all are equal but the last.
    fn piece_bytes(&self) -> u64 {
        let even = self.total_bytes.div_ceil(u64::from(self.count));
        even.min(self.total_bytes.saturating_sub(even * u64::from(self.index)))
    }

    /// From the header's value; `None` if it is not one.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split('.');
        let mut number = |digits: usize| {
            let part = parts.next()?;
            (part.len() <= digits && !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit())).then_some(part)
        };
        let sender = u64::from_str_radix(number(16)?, 16).ok()?;
        let parcel = number(20)?.parse().ok()?;
        let index = number(10)?.parse().ok()?;
        let count = number(10)?.parse().ok()?;
        let total_bytes = number(20)?.parse().ok()?;
        let whole = parts.next().is_none();
        (whole && count >= 2 && index < count).then_some(Self { sender, parcel, index, count, total_bytes })
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender, parcel, index, count, total_bytes } = self;
        write!(f, "{sender:016x}.{parcel}.{index}.{count}.{total_bytes}")
    }
}

/// The pieces of one parcel, sharing its bytes.
#[derive(Debug)]
pub struct Fragments {
    parcel: Bytes,
    next: Fragment,
}

impl Fragments {
    /// Cuts `parcel`, the `number`th that `sender` (a boot nonce) cuts, into pieces of at most `max_bytes` (at least 1).
    /// Gives the parcel back if one message holds it.
    pub fn cut(parcel: Bytes, sender: u64, number: u64, max_bytes: usize) -> Result<Self, Bytes> {
        let Ok(count @ 2..) = u32::try_from(parcel.len().div_ceil(max_bytes.max(1))) else { return Err(parcel) };
        let total_bytes = parcel.len() as u64;
        Ok(Self { parcel, next: Fragment { sender, parcel: number, index: 0, count, total_bytes } })
    }
}

impl Iterator for Fragments {
    type Item = (Fragment, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let fragment = self.next;
        if fragment.index == fragment.count {
            return None;
        }
        self.next.index += 1;
        let piece = self.parcel.split_to(fragment.piece_bytes() as usize);
        Some((fragment, piece))
    }
}

/// Why a piece was dropped, and with it the parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The parcel is longer than this receiver takes.
    #[error("a parcel of {total_bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length.
        total_bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The piece before it is missing.
    #[error("a fragment is missing")]
    OutOfOrder,
    /// Its length is not what its header says.
    #[error("a fragment's length is not what its header says")]
    Length,
}

/// Puts the fragments of one subject together: one parcel at a time a sender, since a sender's stream is ordered.
#[derive(Debug)]
pub struct Assembler {
    max_parcel_bytes: usize,
    max_bytes: usize,
    begun: HashMap<u64, Begun>,
    clock: u64,
}

#[derive(Debug)]
struct Begun {
    next: Fragment,
    bytes: BytesMut,
    since: u64,
}

impl Assembler {
    /// Takes parcels of at most `max_parcel_bytes`, and holds at most four times as much unfinished.
    pub fn new(max_parcel_bytes: usize) -> Self {
        let max_bytes = max_parcel_bytes.saturating_mul(4);
        Self { max_parcel_bytes, max_bytes, begun: HashMap::new(), clock: 0 }
    }

    /// Takes a piece in. Gives the parcel when it is whole.
    ///
    /// # Errors
    /// A piece that does not follow the one before: it is dropped, with all that was there of its parcel.
    pub fn accept(&mut self, fragment: Fragment, piece: Bytes) -> Result<Option<Bytes>, FragmentError> {
        let mut begun = match self.begun.remove(&fragment.sender) {
            Some(begun) if begun.next == fragment => begun,
            _ if fragment.index == 0 => self.begin(fragment)?,
            _ => return Err(FragmentError::OutOfOrder),
        };
        if piece.is_empty() || piece.len() as u64 != fragment.piece_bytes() {
            return Err(FragmentError::Length);
        }
        begun.bytes.extend_from_slice(&piece);
        begun.next.index += 1;
        if begun.next.index == fragment.count {
            return Ok(Some(begun.bytes.freeze()));
        }
        self.begun.insert(fragment.sender, begun);
        Ok(None)
    }

    fn begin(&mut self, fragment: Fragment) -> Result<Begun, FragmentError> {
        let Fragment { total_bytes, .. } = fragment;
        if total_bytes > self.max_parcel_bytes as u64 {
            return Err(FragmentError::TooLarge { total_bytes, limit: self.max_parcel_bytes });
        }
        while self.held_bytes() + total_bytes as usize > self.max_bytes {
            // The oldest is the likeliest to have lost its sender.
            let Some(oldest) = self.begun.iter().min_by_key(|(_, begun)| begun.since).map(|(sender, _)| *sender) else {
                break;
            };
            self.begun.remove(&oldest);
        }
        self.clock += 1;
        let bytes = BytesMut::with_capacity(total_bytes as usize);
        Ok(Begun { next: fragment, bytes, since: self.clock })
    }

    /// Bytes set aside for parcels that are not whole.
    pub fn held_bytes(&self) -> usize {
        self.begun.values().map(|begun| begun.next.total_bytes as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parcel(len: usize) -> Bytes {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn pieces(len: usize, sender: u64, max_bytes: usize) -> Vec<(Fragment, Bytes)> {
        Fragments::cut(parcel(len), sender, 1, max_bytes).unwrap().collect()
    }

    proptest! {
        #[test]
        fn pieces_fit_and_put_together_are_the_parcel(len in 2usize..5000, max_bytes in 1usize..700) {
            let Ok(cut) = Fragments::cut(parcel(len), 7, 3, max_bytes) else {
                prop_assert!(len <= max_bytes);
                return Ok(());
            };
            let mut assembler = Assembler::new(len);
            let mut whole = None;
            for (fragment, piece) in cut {
                prop_assert!(piece.len() <= max_bytes && whole.is_none());
                prop_assert_eq!(Fragment::parse(&fragment.to_string()), Some(fragment));
                prop_assert!(fragment.to_string().len() + Fragment::HEADER.len() + 20 <= Fragment::HEADER_BYTES);
                whole = assembler.accept(fragment, piece).unwrap();
            }
            prop_assert_eq!(whole, Some(parcel(len)));
            prop_assert_eq!(assembler.held_bytes(), 0);
        }

        #[test]
        fn text_that_is_no_fragment_is_none(text in "[0-9a-f.+ -]{0,60}") {
            if let Some(fragment) = Fragment::parse(&text) {
                prop_assert!(fragment.count >= 2 && fragment.index < fragment.count);
            }
        }
    }

    #[test]
    fn a_missing_piece_discards_the_parcel_and_the_next_parcel_is_whole() {
        let mut assembler = Assembler::new(100);
        let cut = pieces(100, 1, 30);
        assert_eq!(assembler.accept(cut[0].0, cut[0].1.clone()), Ok(None));
        assert_eq!(assembler.accept(cut[2].0, cut[2].1.clone()), Err(FragmentError::OutOfOrder));
        assert_eq!(assembler.accept(cut[1].0, cut[1].1.clone()), Err(FragmentError::OutOfOrder));
        assert_eq!(assembler.held_bytes(), 0);
        let mut last = None;
        for (fragment, piece) in pieces(100, 1, 30) {
            last = assembler.accept(fragment, piece).unwrap();
        }
        assert_eq!(last, Some(parcel(100)));
    }

    #[test]
    fn senders_do_not_mix_and_what_is_unfinished_is_bounded() {
        let mut assembler = Assembler::new(100);
        for sender in 0..50 {
            let cut = pieces(100, sender, 60);
            assert_eq!(assembler.accept(cut[0].0, cut[0].1.clone()), Ok(None));
            assert!(assembler.held_bytes() <= 400);
        }
        for sender in 46..50 {
            let cut = pieces(100, sender, 60);
            assert_eq!(assembler.accept(cut[1].0, cut[1].1.clone()), Ok(Some(parcel(100))), "{sender}");
        }
        let cut = pieces(100, 3, 60);
        assert_eq!(
            assembler.accept(cut[1].0, cut[1].1.clone()),
            Err(FragmentError::OutOfOrder),
            "the oldest went first"
        );
    }

    #[test]
    fn a_lying_fragment_is_refused() {
        let mut assembler = Assembler::new(100);
        let fragment = Fragment { sender: 1, parcel: 1, index: 0, count: 2, total_bytes: 101 };
        assert_eq!(
            assembler.accept(fragment, parcel(51)),
            Err(FragmentError::TooLarge { total_bytes: 101, limit: 100 })
        );
        let fragment = Fragment { total_bytes: 100, ..fragment };
        assert_eq!(assembler.accept(fragment, parcel(49)), Err(FragmentError::Length));
        for count in [101, u32::MAX] {
            // More pieces than bytes: some would be empty.
            let fragment = Fragment { count, index: 0, total_bytes: 1, ..fragment };
            assert_eq!(assembler.accept(fragment, parcel(1)), Ok(None));
            assert_eq!(assembler.accept(Fragment { index: 1, ..fragment }, Bytes::new()), Err(FragmentError::Length));
        }
        assert_eq!(assembler.held_bytes(), 0);
    }
}
