//! Protobuf's fields as they lie in the bytes, for what is read without prost.

use super::WireError;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A base-128 number.
    Number(u64),
    /// What says its own length: text, bytes, a message or a packed list.
    Bytes(&'a [u8]),
    /// A number of four or eight bytes.
    Fixed,
}

/// The fields of an encoded message: their numbers and what they hold. What is malformed is an error, and the last that comes.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match field(self.0) {
            Some((number, value, rest)) => {
                self.0 = rest;
                Some(Ok((number, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(WireError::Illegal("a message is malformed")))
            }
        }
    }
}

/// The first field of `bytes`, and what follows it.
fn field(bytes: &[u8]) -> Option<(u32, Value<'_>, &[u8])> {
    let (key, after) = varint(bytes)?;
    let (value, rest) = match key & 7 {
        0 => varint(after).map(|(number, rest)| (Value::Number(number), rest))?,
        1 => (Value::Fixed, after.get(8..)?),
        2 => {
            let (len, rest) = varint(after)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            (Value::Bytes(bytes), rest)
        }
        5 => (Value::Fixed, after.get(4..)?),
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, value, rest))
}

/// A base-128 number and what follows it.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    // Most numbers of a header are below 128.
    if let [first @ 0..0x80, rest @ ..] = bytes {
        return Some((u64::from(*first), rest));
    }
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_varint_is_no_varint() {
        assert_eq!(varint(&[0xff; 11]), None);
        assert_eq!(varint(&[0xac, 0x02, 7]), Some((300, &[7][..])));
        assert_eq!(varint(&[5]), Some((5, &[][..])));
        assert_eq!(varint(&[]), None);
    }

    #[test]
    fn fields_come_in_order_and_end_where_they_are_malformed() {
        let bytes = [0x08, 0xac, 0x02, 0x12, 0x01, b'x', 0x1d, 0, 0, 0, 0, 0x22, 0x05, 0];
        let fields: Vec<_> = Fields(&bytes).collect();
        assert_eq!(fields[..3].iter().flatten().count(), 3, "{fields:?}");
        assert!(matches!(fields[0], Ok((1, Value::Number(300)))));
        assert!(matches!(fields[1], Ok((2, Value::Bytes(b"x")))));
        assert!(matches!(fields[2], Ok((3, Value::Fixed))));
        assert!(matches!(fields[3..], [Err(WireError::Illegal(_))]), "{fields:?}");
    }
}
