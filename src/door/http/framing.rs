//! What the bytes of a connection announce, told before they have arrived: of HTTP/1 that a head begins, and a chunk that is larger
//! than any body may be; or that it speaks HTTP/2, where nothing more is watched. The server's own reader tells none of it.
//!
//! This only watches. Where it and the reader disagree on what a message is, the reader refuses the message and closes.

/// How an HTTP/2 connection without TLS begins (RFC 9113, section 3.4). No message of HTTP/1.1 begins so.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest line that is looked at, in bytes; of longer ones only the front is.
const LINE_BYTES: usize = 256;

/// Follows the messages of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// So many bytes are here, all of them the preface's; none once they are not.
    preface: Option<usize>,
    /// Largest body, in bytes.
    most: u64,
    /// The line so far, without its end.
    line: Vec<u8>,
    length: u64,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message.
    Between,
    Head,
    /// So many bytes of a body to come.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk to come.
    Chunk(u64),
    /// At the line's end behind a chunk.
    ChunkEnd,
    Trailers,
    /// Nothing that the reader takes.
    Lost,
    /// No messages of HTTP/1.
    Http2,
}

/// What the newest bytes announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Heads that began.
    pub heads: u64,
    /// The newest message has a chunk that is too large.
    pub too_large: bool,
    /// It is HTTP/2, and what seemed to be a head was none.
    pub http2: bool,
}

impl Framing {
    /// Of a connection on which nothing has arrived; no body may have more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { state: State::Between, preface: Some(0), most: most as u64, line: Vec::new(), length: 0, chunked: false }
    }

    /// Whether more of a message is due.
    pub(super) fn is_unfinished(&self) -> bool {
        !matches!(self.state, State::Between | State::Http2)
    }

    /// Follows `bytes`, which have arrived.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Announced {
        let mut announced = Announced::default();
        if self.ends_preface(bytes) {
            self.state = State::Http2;
            announced.http2 = true;
        }
        while let Some(&first) = bytes.first() {
            match self.state {
                State::Body(left) | State::Chunk(left) => {
                    let skipped = left.min(bytes.len() as u64);
                    bytes = &bytes[skipped as usize..];
                    let left = left - skipped;
                    self.state = match (self.state, left) {
                        (State::Body(_), 0) => State::Between,
                        (State::Body(_), left) => State::Body(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                }
                State::Lost | State::Http2 => break,
                State::Between if matches!(first, b'\r' | b'\n') => bytes = &bytes[1..],
                State::Between => {
                    (self.length, self.chunked, self.state) = (0, false, State::Head);
                    announced = Announced { heads: announced.heads + 1, ..Announced::default() };
                }
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let part = &bytes[..end.unwrap_or(bytes.len())];
                    self.line.extend_from_slice(&part[..part.len().min(LINE_BYTES.saturating_sub(self.line.len()))]);
                    bytes = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.state = self.after(line.strip_suffix(b"\r").unwrap_or(&line));
                        announced.too_large |= matches!(self.state, State::Chunk(size) if size > self.most);
                    }
                }
            }
        }
        announced
    }

    /// Whether the preface of HTTP/2 is whole with `bytes`.
    fn ends_preface(&mut self, bytes: &[u8]) -> bool {
        let Some(missing) = self.preface.map(|here| &PREFACE[here..]) else { return false };
        let more = missing.len().min(bytes.len());
        let goes_on = missing[..more] == bytes[..more];
        self.preface = self.preface.map(|here| here + more).filter(|here| goes_on && *here < PREFACE.len());
        goes_on && more == missing.len()
    }

    /// The state after `line`.
    fn after(&mut self, line: &[u8]) -> State {
        match self.state {
            State::Head if line.is_empty() => match (self.chunked, self.length) {
                (true, _) => State::ChunkSize,
                (false, 0) => State::Between,
                (false, length) => State::Body(length),
            },
            State::Head => {
                self.header(line);
                State::Head
            }
            State::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = std::str::from_utf8(&line[..digits]).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
                match size {
                    Some(0) => State::Trailers,
                    Some(size) => State::Chunk(size),
                    None => State::Lost,
                }
            }
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::Trailers if line.is_empty() => State::Between,
            State::Trailers => State::Trailers,
            _ => State::Lost,
        }
    }

    fn header(&mut self, line: &[u8]) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { return };
        if name.eq_ignore_ascii_case("transfer-encoding") {
            let last = value.rsplit(',').next().unwrap_or_default();
            self.chunked = last.trim().eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("content-length") {
            self.length = value.trim().parse().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGES: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\nGET / \r\n\
        \r\nPOST / HTTP/1.1\r\nTRANSFER-ENCODING: gzip, Chunked\r\nx: y\r\n\r\n5;ext=1\r\nab\r\nc\r\n00\r\nt: u\r\n\r\n\
        GET / HTTP/1.1\r\n\r\n";

    fn announced(pieces: &[&[u8]]) -> (Announced, bool) {
        let mut framing = Framing::new(1000);
        let sum = pieces.iter().fold(Announced::default(), |sum, piece| {
            let now = framing.take(piece);
            let http2 = sum.http2 | now.http2;
            Announced { heads: sum.heads + now.heads, too_large: sum.too_large | now.too_large, http2 }
        });
        (sum, framing.is_unfinished())
    }

    #[test]
    fn chunks_that_are_too_large_are_announced_by_their_size() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for (chunks, too_large) in [
            ("ffffffffffffffff\r\n", true),
            ("3e8\r\n", false),
            ("3e9\r\n", true),
            ("3e9", false),
            ("1\r\nx\r\n7FFFFFFFFFFFFFFF;a=b\r\n", true),
            // Not a size that the reader takes.
            ("1ffffffffffffffff\r\n", false),
        ] {
            let sum = announced(&[head.as_bytes(), chunks.as_bytes()]).0;
            assert_eq!(sum, Announced { heads: 1, too_large, http2: false }, "{chunks}");
        }
    }

    proptest! {
        #[test]
        fn messages_are_told_apart_however_they_arrive(cuts in proptest::collection::vec(0..MESSAGES.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([MESSAGES.len()]) {
                pieces.push(&MESSAGES[from..cut]);
                from = cut;
            }
            prop_assert_eq!(announced(&pieces), (Announced { heads: 3, ..Announced::default() }, false));
        }

        #[test]
        fn http_2_is_known_by_its_preface_however_it_arrives(cut in 1..PREFACE.len(), wrong in 0..PREFACE.len()) {
            let (front, back) = PREFACE.split_at(cut);
            for pieces in [&[front, back, b"\0\0"][..], &[PREFACE, MESSAGES], &[front, &[back, MESSAGES].concat()]] {
                let (sum, unfinished) = announced(pieces);
                prop_assert!(sum.http2 && !sum.too_large && !unfinished);
            }
            prop_assert!(!announced(&[front]).0.http2);
            let mut other = *PREFACE;
            other[wrong] ^= 1;
            prop_assert!(!announced(&[&other[..cut], &other[cut..], PREFACE]).0.http2);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            announced(&[&bytes[..], b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]]);
        }
    }
}
