//! The header of a safetensors file, checked whole.
//!
//! The format (github.com/huggingface/safetensors): 8 bytes, the header's length in little endian; the header, a JSON
//! object from tensor names to dtype, shape and byte range; then the tensors' bytes, one after the other, without holes
//! and to the end of the file.

use crate::read::OpenFile;
use crate::stranger::foreign;
use safetensors::Dtype;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use stageline_base::Fault;
use stageline_base::limits::MAX_SAFETENSORS_HEADER_BYTES;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;
/// How much of a file that is no safetensors file says what it is.
const FIRST_BYTES: u64 = 64;
/// What is said of a file that is shorter than it must be.
const TRUNCATED: &str = "it is truncated, as a download is that did not end: fetch it again";
const TRUNCATED_OR_LIES: &str = "it is truncated or lies; if a download did not end, fetch it again";
/// Bytes in front of the header.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// Element type and dimensions of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Number of elements; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64))
    }

    /// Number of bytes; `None` on overflow, or where elements of less than a byte leave a rest.
    pub fn bytes(&self) -> Option<u64> {
        let bits = self.elements()?.checked_mul(self.dtype.bitsize() as u64)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for TensorShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.dtype, self.shape)
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// What it is.
    pub shape: TensorShape,
    /// Its bytes, counted from the start of the file.
    pub bytes: Range<u64>,
}

impl TensorEntry {
    /// Where, in the file, `len` bytes from byte `at` of this tensor lie; `name` is for the fault.
    ///
    /// # Errors
    /// `InvalidRequest` if the tensor is shorter.
    pub(crate) fn place(&self, name: &str, at: u64, len: usize) -> Result<u64, Fault> {
        let start = self.bytes.start.saturating_add(at);
        let fits = start.checked_add(len as u64).is_some_and(|end| end <= self.bytes.end);
        if fits { Ok(start) } else { Err(Fault::invalid(format!("tensor {name:?} is shorter than its shape"))) }
    }
}

/// The tensors of a file, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Where the first tensor starts, in bytes from the start of the file.
    pub data_start: u64,
}

impl Header {
    /// Reads and checks the header of an open file.
    pub(crate) fn read(open: &OpenFile<'_>) -> Result<Self, Fault> {
        Self::read_plain(open).map_err(|problem| {
            // Another kind of file is told from a broken one: its first bytes make a length, if a strange one.
            let mut first = vec![0; open.len.min(FIRST_BYTES) as usize];
            let foreign = open.read_at(&mut first, 0).ok().and_then(|()| foreign(&first));
            foreign.map_or(problem, |what| Fault::invalid(format!("{}: {what}", open.path.display())))
        })
    }

    fn read_plain(open: &OpenFile<'_>) -> Result<Self, Fault> {
        let at = |problem: String| Fault::invalid(format!("{}: {problem}", open.path.display()));
        let mut length = [0; LENGTH_BYTES as usize];
        if open.len < LENGTH_BYTES {
            return Err(at(format!("{} bytes are too few for a safetensors file: {TRUNCATED}", open.len)));
        }
        open.read_at(&mut length, 0)?;
        let length = header_length(length, open.len).map_err(at)?;
        let mut header = vec![0; length];
        open.read_at(&mut header, LENGTH_BYTES)?;
        Self::parse(&header, open.len).map_err(at)
    }

    /// Reads and checks the header of a file that is in memory.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub fn of_file(file: &[u8]) -> Result<Self, String> {
        let Some((length, rest)) = file.split_first_chunk() else {
            return Err(format!("{} bytes are too few for a safetensors file: {TRUNCATED}", file.len()));
        };
        let length = header_length(*length, file.len() as u64)?;
        let header = rest.get(..length).ok_or("its header is truncated")?;
        Self::parse(header, file.len() as u64)
    }

    /// Checks a header's JSON against the length of its file.
    fn parse(header: &[u8], file_len: u64) -> Result<Self, String> {
        if header.first() != Some(&b'{') {
            return Err("its header is not a JSON object".into());
        }
        let data_start = LENGTH_BYTES + header.len() as u64;
        let data_len = file_len.checked_sub(data_start).ok_or("its header is truncated")?;
        let Listed(listed) = serde_json::from_slice(header).map_err(|error| {
            let said: String = error.to_string().chars().take(200).collect();
            format!("its header cannot be read: {said}")
        })?;
        let mut tensors = BTreeMap::new();
        for (name, listed) in listed {
            let [start, end] = listed.data_offsets;
            let shape = TensorShape { dtype: listed.dtype, shape: listed.shape.0 };
            let in_file = start <= end && end <= data_len;
            if !in_file {
                return Err(format!("tensor {name:?} has bytes {start}..{end} of {data_len}: {TRUNCATED_OR_LIES}"));
            }
            if shape.bytes() != Some(end - start) {
                return Err(format!("tensor {name:?} is {shape}, which does not make its {} bytes", end - start));
            }
            tensors.insert(name, TensorEntry { shape, bytes: data_start + start..data_start + end });
        }
        let header = Self { tensors, data_start };
        header.check_layout(file_len)?;
        Ok(header)
    }

    /// No hole, no overlap, nothing behind the last tensor.
    fn check_layout(&self, file_len: u64) -> Result<(), String> {
        let mut next = self.data_start;
        for (name, entry) in self.in_file_order() {
            let Range { start, end } = entry.bytes;
            if start != next {
                let what = if start < next { "overlaps the tensor before it" } else { "leaves a hole before it" };
                return Err(format!("tensor {name:?} {what}"));
            }
            next = end;
        }
        if next != file_len {
            return Err(format!("{} bytes follow its last tensor", file_len - next));
        }
        Ok(())
    }

    /// The tensors by their place in the file.
    pub(crate) fn in_file_order(&self) -> Vec<(&String, &TensorEntry)> {
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
        order
    }

    /// The bytes of a header (its length in front) for tensors that follow it in the given order, padded with spaces so
    /// that the first starts at a multiple of `align`. `None` if a size overflows.
    pub(crate) fn write(tensors: &[(&str, &TensorShape)], align: usize) -> Option<Vec<u8>> {
        let mut json = serde_json::Map::new();
        json.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
        let mut start = 0_u64;
        for (name, shape) in tensors {
            let end = start.checked_add(shape.bytes()?)?;
            let listed = Written { dtype: shape.dtype, shape: &shape.shape, data_offsets: [start, end] };
            json.insert((*name).into(), serde_json::to_value(listed).ok()?);
            start = end;
        }
        let mut header = serde_json::Value::Object(json).to_string().into_bytes();
        let length = (header.len() + LENGTH_BYTES as usize).next_multiple_of(align) - LENGTH_BYTES as usize;
        header.resize(length, b' ');
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.append(&mut header);
        Some(bytes)
    }
}

/// The header's length from the file's first bytes, if the file and the limit leave room for it.
fn header_length(length: [u8; LENGTH_BYTES as usize], file_len: u64) -> Result<usize, String> {
    let length = u64::from_le_bytes(length);
    if length > file_len.saturating_sub(LENGTH_BYTES) {
        return Err(format!("its header claims {length} bytes, the file has {file_len}: {TRUNCATED_OR_LIES}"));
    }
    if length > MAX_SAFETENSORS_HEADER_BYTES {
        return Err(format!("its header claims {length} bytes, more than {MAX_SAFETENSORS_HEADER_BYTES}"));
    }
    usize::try_from(length).map_err(|_| format!("its header claims {length} bytes"))
}

#[derive(Serialize)]
struct Written<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    data_offsets: [u64; 2],
}

/// A tensor as a header lists it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedTensor {
    dtype: Dtype,
    shape: Dims,
    data_offsets: [u64; 2],
}

/// Dimensions; no more than [`MAX_RANK`] of them, so that a long list takes no memory.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_RANK} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = list.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(de::Error::invalid_length(MAX_RANK + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(DimsVisitor)
    }
}

/// A header's tensors; a name that comes twice is an error (a plain map would keep the second in silence).
struct Listed(BTreeMap<String, ListedTensor>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListedVisitor;
        impl<'de> Visitor<'de> for ListedVisitor {
            type Value = Listed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let (mut tensors, mut notes) = (BTreeMap::new(), false);
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        std::mem::replace(&mut notes, true)
                    } else {
                        let tensor = map.next_value()?;
                        tensors.insert(name.clone(), tensor).is_some()
                    };
                    if twice {
                        return Err(de::Error::custom(format_args!("{name:?} comes twice")));
                    }
                }
                Ok(Listed(tensors))
            }
        }
        deserializer.deserialize_map(ListedVisitor)
    }
}
