//! The layout of a parcel: payload, header, trailer (see `hop.proto`).

use super::{MAX_HEADER_BYTES, MAX_PARCEL_BYTES, WireError, decode as from_wire, encode as to_wire, pb, scan};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use stageline_base::ReplicaId;
use stageline_core::Mail;

/// The last four bytes of a parcel, as a little endian number: 'S' 'L' 'W' and the wire version.
pub const MAGIC: u32 = u32::from_le_bytes([b'S', b'L', b'W', super::WIRE_VERSION as u8]);
/// Length of the trailer.
pub const TRAILER_BYTES: usize = 8;

/// A parcel's bytes, and what it cost to make them.
#[derive(Debug)]
pub struct Encoded {
    /// The parcel.
    pub bytes: Bytes,
    /// Bytes of the payload that had to be copied: 0, or all of them where the payload was shared or its buffer full.
    pub copied_bytes: usize,
}

/// Turns `mail` into a parcel. A single tensor that nobody else holds, and whose buffer has room behind it
/// ([`stageline_core::batch::trailer_room`]), is not copied.
pub fn encode(mail: Mail) -> Encoded {
    let (header, payload) = to_wire::header(mail);
    let header_bytes = header.encoded_len();
    let payload_bytes: usize = payload.iter().map(Bytes::len).sum();
    let (mut buffer, copied_bytes) = make_room(payload, header_bytes + TRAILER_BYTES);
    put_header(&header, header_bytes, &mut buffer);
    debug_assert_eq!(buffer.len(), payload_bytes + header_bytes + TRAILER_BYTES);
    Encoded { bytes: buffer.freeze(), copied_bytes }
}

/// `mail` as its payload's parts, where they lie, and the header and trailer that follow them: for a transport that copies the
/// payload anyway.
pub fn encode_parts(mail: Mail) -> (Vec<Bytes>, Vec<u8>) {
    let (header, payload) = to_wire::header(mail);
    let header_bytes = header.encoded_len();
    let mut rest = Vec::with_capacity(header_bytes + TRAILER_BYTES);
    put_header(&header, header_bytes, &mut rest);
    (payload, rest)
}

/// Appends the header, which is so long, and the trailer.
fn put_header(header: &pb::Header, header_bytes: usize, bytes: &mut impl BufMut) {
    header.encode_raw(bytes);
    bytes.put_u32_le(header_bytes as u32);
    bytes.put_u32_le(MAGIC);
}

/// The payload's own buffer if it is one, ours alone, and has room, otherwise a copy; and how many bytes were copied.
fn make_room(mut payload: Vec<Bytes>, room: usize) -> (BytesMut, usize) {
    if payload.len() == 1
        && let Some(only) = payload.pop()
    {
        match only.try_into_mut() {
            Ok(own) if own.capacity() - own.len() >= room => return (own, 0),
            Ok(full) => payload.push(full.freeze()),
            Err(shared) => payload.push(shared),
        }
    }
    let bytes = payload.iter().map(Bytes::len).sum();
    let mut copy = BytesMut::with_capacity(bytes + room);
    for part in &payload {
        copy.extend_from_slice(part);
    }
    (copy, bytes)
}

/// Turns a parcel back into mail. The payload shares the parcel's bytes.
///
/// # Errors
/// Whatever is short, malformed, beyond a limit or of another version. Allocates at most a small multiple of the header.
pub fn decode(parcel: Bytes) -> Result<Mail, WireError> {
    if parcel.len() > MAX_PARCEL_BYTES {
        return Err(WireError::TooLarge { what: "a parcel", limit: MAX_PARCEL_BYTES });
    }
    let (rest, header_bytes) = without_trailer(&parcel)?;
    let Some(payload_bytes) = rest.len().checked_sub(header_bytes) else {
        return Err(WireError::Short { bytes: parcel.len() });
    };
    read(parcel.slice(payload_bytes..rest.len()), parcel.slice(..payload_bytes))
}

/// Turns a payload, and the header and trailer that came with it, back into mail.
///
/// # Errors
/// As [`decode`].
pub fn decode_parts(payload: Bytes, rest: &[u8]) -> Result<Mail, WireError> {
    let (header, header_bytes) = without_trailer(rest)?;
    if header.len() != header_bytes {
        return Err(WireError::Short { bytes: rest.len() });
    }
    read(Bytes::copy_from_slice(header), payload)
}

/// What is before the trailer, and how much of its end is the header.
fn without_trailer(bytes: &[u8]) -> Result<(&[u8], usize), WireError> {
    let Some((rest, [length @ .., m0, m1, m2, m3])) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(WireError::Short { bytes: bytes.len() });
    };
    let found = u32::from_le_bytes([*m0, *m1, *m2, *m3]);
    if found != MAGIC {
        return Err(WireError::Version { found });
    }
    let header_bytes = length.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
    if header_bytes > MAX_HEADER_BYTES {
        return Err(WireError::TooLarge { what: "a header", limit: MAX_HEADER_BYTES });
    }
    Ok((rest, header_bytes))
}

fn read(header: Bytes, payload: Bytes) -> Result<Mail, WireError> {
    scan::check(&header)?;
    let header = pb::Header::decode(header)?;
    let from = ReplicaId::parse(&header.from).ok_or(WireError::Illegal("the sender's id is not a replica id"))?;
    let body = from_wire::body(header.body, payload)?;
    let stage = from_wire::stage(header.from_stage)?;
    Ok(Mail { from, stage, body })
}
