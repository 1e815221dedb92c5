//! The message that all work travels in, `Rows`, without prost in between: it would make a dozen lists on both sides of what are
//! two. Its lists are packed, and each comes once.

use super::fields::{Fields, Value, varint};
use super::tensors::{Payload, head, put_bytes, put_packed};
use super::{Checked, MAX_SEGMENTS, WireError, at_most, check, decode::replica, text};
use prost::encoding::{WireType, encode_key, encode_varint};
use stageline_base::{ReplicaId, SequenceId, Tensors};
use stageline_core::{FrameContent, Segment};
use std::collections::HashMap;

/// `Rows`' fields; from `DOOR` to `EMIT` an entry each of every segment.
const TENSORS: u32 = 1;
const DOORS: u32 = 3;
const DOOR: u32 = 4;
const BOOT: u32 = 5;
const COUNTER: u32 = 6;
const ATTEMPT: u32 = 7;
const START: u32 = 8;
const COUNT: u32 = 9;
const EMIT: u32 = 10;
/// Most bytes that a segment takes in all lists but that of doors.
const SEGMENT_BYTES: usize = 39;

/// The `Rows` of these segments and the tensors with their rows.
pub(super) fn write(segments: &[Segment], tensors: &Tensors) -> Vec<u8> {
    let mut rows = Vec::with_capacity(256 + SEGMENT_BYTES * segments.len());
    for tensor in tensors.iter() {
        put_bytes(TENSORS, &head(tensor), &mut rows);
    }
    let doors = put_doors(segments, &mut rows);
    put_packed(DOOR, doors.into_iter().map(u64::from), &mut rows);
    encode_key(BOOT, WireType::LengthDelimited, &mut rows);
    encode_varint(8 * segments.len() as u64, &mut rows);
    segments.iter().for_each(|segment| rows.extend(segment.sequence.boot.to_le_bytes()));
    put_packed(COUNTER, segments.iter().map(|segment| segment.sequence.counter), &mut rows);
    put_packed(ATTEMPT, segments.iter().map(|segment| segment.attempt.into()), &mut rows);
    put_packed(START, segments.iter().map(|segment| segment.start.into()), &mut rows);
    put_packed(COUNT, segments.iter().map(|segment| segment.rows.into()), &mut rows);
    put_packed(EMIT, segments.iter().map(|segment| segment.emit.into()), &mut rows);
    rows
}

/// Appends the segments' doors, each once, and says which of them is each segment's.
fn put_doors(segments: &[Segment], rows: &mut Vec<u8>) -> Vec<u32> {
    let mut places: HashMap<&ReplicaId, u32> = HashMap::new();
    let mut last: Option<(&ReplicaId, u32)> = None;
    let mut place = |door| match last {
        // Most often all are of one door, and a look at the last one is cheaper than at the table.
        Some((before, place)) if before == door => place,
        _ => {
            let next = places.len() as u32;
            let place = *places.entry(door).or_insert(next);
            if place == next {
                put_bytes(DOORS, door.as_str().as_bytes(), rows);
            }
            last = Some((door, place));
            place
        }
    };
    segments.iter().map(|segment| place(&segment.door)).collect()
}

/// What such a message says; the tensors are cut off the payload.
pub(super) fn read(message: &[u8], payload: &mut Payload) -> Checked<FrameContent> {
    let (mut doors, mut tensors, mut lists) =
        (Vec::new(), Tensors::with_capacity(1), [None; (EMIT - DOOR + 1) as usize]);
    for field in Fields(message) {
        match field? {
            (TENSORS, Value::Bytes(head)) => payload.cut(head, &mut tensors)?,
            (DOORS, Value::Bytes(door)) => doors.push(replica(text(door)?)?),
            (number @ DOOR..=EMIT, Value::Bytes(list)) => {
                let before = lists[(number - DOOR) as usize].replace(list);
                check(before.is_none(), "a list of the segments' comes twice")?;
            }
            (DOOR..=EMIT, _) => check(false, "a list of the segments' is not packed")?,
            _ => {}
        }
    }
    Ok(FrameContent::Rows { segments: segments(lists, &doors)?, payload: tensors })
}

const UNEVEN: &str = "the segments' lists are of different lengths";

fn segments(lists: [Option<&[u8]>; 7], doors: &[ReplicaId]) -> Checked<Vec<Segment>> {
    let [door, boot, counter, attempt, start, count, emit] = lists.map(|list| list.unwrap_or_default());
    let (boot, cut) = boot.as_chunks::<8>();
    at_most(boot.len(), MAX_SEGMENTS, "the list of segments")?;
    check(!boot.is_empty(), "a parcel of rows has no segment")?;
    check(cut.is_empty() && emit.len() == boot.len(), UNEVEN)?;
    let (mut door, mut counter, mut attempt) = (Numbers(door), Numbers(counter), Numbers(attempt));
    let (mut start, mut count) = (Numbers(start), Numbers(count));
    let mut segments = Vec::with_capacity(boot.len());
    for (boot, emit) in boot.iter().zip(emit) {
        let sequence = SequenceId { boot: u64::from_le_bytes(*boot), counter: counter.next()? };
        check(sequence.counter > 0, "a sequence's counter is 0")?;
        let (start, rows) = (start.next_u32()?, count.next_u32()?);
        check(rows > 0, "a segment has no rows")?;
        check(start.checked_add(rows).is_some(), "a segment ends beyond the last position")?;
        check(*emit <= 1, "a truth is neither 0 nor 1")?;
        let door = doors.get(door.next_u32()? as usize).ok_or(WireError::Illegal("a segment's door is not listed"))?;
        segments.push(Segment {
            sequence,
            attempt: attempt.next_u32()?,
            door: door.clone(),
            start,
            rows,
            emit: *emit == 1,
        });
    }
    let all = [door, counter, attempt, start, count];
    check(all.iter().all(|list| list.0.is_empty()), UNEVEN)?;
    Ok(segments)
}

/// A packed list of base-128 numbers.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Checked<u64> {
        let (number, rest) = varint(self.0).ok_or(WireError::Illegal(UNEVEN))?;
        self.0 = rest;
        Ok(number)
    }

    fn next_u32(&mut self) -> Checked<u32> {
        u32::try_from(self.next()?).map_err(|_| WireError::Illegal("a number of a segment is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use prost::Message;
    use stageline_base::prng::Prng;
    use stageline_base::{Element, HostTensor, NamedTensor, Shape};

    /// Some segments of up to three doors, their numbers of every length.
    fn some(random: &mut Prng) -> Vec<Segment> {
        let mut number = |most: u64| (random.next_u64() >> random.below(64)).min(most);
        let mut segment = || Segment {
            sequence: SequenceId { boot: number(u64::MAX), counter: number(u64::MAX).max(1) },
            attempt: number(u32::MAX.into()) as u32,
            door: ReplicaId::new("door", number(2)),
            start: number(1 << 30) as u32,
            rows: number(1 << 30).max(1) as u32,
            emit: number(1) == 1,
        };
        (0..1 + segment().sequence.boot % 9).map(|_| segment()).collect()
    }

    fn tensors() -> Tensors {
        let of = |name: &str, element, shape: &[usize]| {
            (name.into(), HostTensor::zeros(element, Shape::new(shape).unwrap()).unwrap())
        };
        [of("a.b", Element::Bf16, &[3, 300]), of("scalar", Element::I64, &[]), of("none", Element::Bool, &[0, 7])]
            .into_iter()
            .collect()
    }

    /// The same message as prost has it.
    fn message(segments: &[Segment], tensors: &Tensors) -> pb::Rows {
        let mut doors: Vec<String> = Vec::new();
        let mut place = |door: &ReplicaId| {
            let at = doors.iter().position(|other| other == door.as_str());
            at.unwrap_or_else(|| {
                doors.push(door.to_string());
                doors.len() - 1
            }) as u32
        };
        let of = |tensor: &HostTensor| tensor.shape().iter().map(|extent| *extent as u64).collect();
        let head = |NamedTensor { name, tensor }: &NamedTensor| pb::TensorHead {
            name: name.to_string(),
            element: tensor.element().number(),
            shape: of(tensor),
        };
        pb::Rows {
            tensors: tensors.iter().map(head).collect(),
            door: segments.iter().map(|segment| place(&segment.door)).collect(),
            boot: segments.iter().map(|segment| segment.sequence.boot).collect(),
            counter: segments.iter().map(|segment| segment.sequence.counter).collect(),
            attempt: segments.iter().map(|segment| segment.attempt).collect(),
            start: segments.iter().map(|segment| segment.start).collect(),
            count: segments.iter().map(|segment| segment.rows).collect(),
            emit: segments.iter().map(|segment| segment.emit).collect(),
            doors,
        }
    }

    fn payload(tensors: &Tensors) -> Payload {
        Payload(vec![0; tensors.bytes() as usize].into())
    }

    #[test]
    fn prost_writes_and_reads_the_same() {
        let mut random = Prng::new(1);
        for _ in 0..2000 {
            let (segments, tensors) = (some(&mut random), tensors());
            let message = message(&segments, &tensors);
            let written = write(&segments, &tensors);
            assert_eq!(pb::Rows::decode(&written[..]).unwrap(), message);
            assert_eq!(written, message.encode_to_vec());
            let read = read(&written, &mut payload(&tensors)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", FrameContent::Rows { segments, payload: tensors }));
        }
    }

    #[test]
    fn what_is_not_rows_is_refused() {
        let right = message(&some(&mut Prng::new(2)), &tensors());
        let refuses = |change: &dyn Fn(&mut pb::Rows), why: &str| {
            let mut message = right.clone();
            change(&mut message);
            let refused = read(&message.encode_to_vec(), &mut payload(&tensors())).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}, not {why}");
        };
        refuses(&|rows| rows.boot.clear(), "no segment");
        refuses(&|rows| rows.boot.push(1), UNEVEN);
        refuses(&|rows| rows.door.push(0), UNEVEN);
        refuses(&|rows| rows.counter.push(1), UNEVEN);
        refuses(&|rows| rows.attempt.truncate(0), UNEVEN);
        refuses(&|rows| rows.start.push(1), UNEVEN);
        refuses(&|rows| rows.count.truncate(0), UNEVEN);
        refuses(&|rows| rows.emit.push(true), UNEVEN);
        refuses(&|rows| rows.counter[0] = 0, "counter is 0");
        refuses(&|rows| rows.count[0] = 0, "no rows");
        refuses(&|rows| (rows.start[0], rows.count[0]) = (u32::MAX, 1), "beyond the last position");
        refuses(&|rows| rows.door[0] = 9, "not listed");
        refuses(&|rows| rows.doors[0] = "door".into(), "replica's id");
        refuses(&|rows| rows.tensors[0].name = "a/b".into(), "name is malformed");
        refuses(&|rows| rows.tensors[0].element = 0, "element type is unknown");
        refuses(&|rows| rows.tensors[0].shape = vec![1; 9], "too many dimensions");
        refuses(&|rows| rows.tensors[0].shape = vec![u64::MAX, 2], "shorter");
        refuses(&|rows| rows.tensors = vec![rows.tensors[1].clone(); 65], "over its limit");

        let written = right.encode_to_vec();
        let twice = [&written[..], &[(EMIT << 3 | 2) as u8, 1, 1]].concat();
        let unpacked = [&written[..], &[(COUNT << 3) as u8, 1]].concat();
        let cut = &written[..written.len() - 1];
        for wrong in [&twice[..], &unpacked, cut, &[0xff; 12]] {
            assert!(matches!(read(wrong, &mut payload(&tensors())), Err(WireError::Illegal(_))), "{wrong:?}");
        }
        let unknown = [&written[..], &[0x78, 1]].concat();
        assert!(read(&unknown, &mut payload(&tensors())).is_ok(), "a field of a later version is passed over");
    }

    #[test]
    fn a_truth_and_a_number_of_32_bits_are_held_to_what_they_are() {
        let segments = [Segment {
            sequence: SequenceId { boot: 1, counter: 1 },
            attempt: 1,
            door: ReplicaId::new("door", 1),
            start: 1,
            rows: 1,
            emit: true,
        }];
        let written = write(&segments, &Tensors::default());
        let with = |field: u32, list: &[u8]| {
            let key = (field << 3 | 2) as u8;
            let at = written.windows(2).position(|two| two == [key, 1]).unwrap();
            let list = [&[list.len() as u8], list].concat();
            read(&[&written[..at + 1], &list, &written[at + 3..]].concat(), &mut payload(&Tensors::default()))
        };
        assert!(with(EMIT, &[0]).is_ok());
        assert_eq!(with(EMIT, &[2]).unwrap_err(), WireError::Illegal("a truth is neither 0 nor 1"));
        let too_large = WireError::Illegal("a number of a segment is too large");
        for field in [DOOR, ATTEMPT, START, COUNT] {
            assert_eq!(with(field, &[0xff, 0xff, 0xff, 0xff, 0x1f]).unwrap_err(), too_large);
        }
    }
}
