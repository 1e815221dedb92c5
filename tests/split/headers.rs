//! safetensors headers that are damaged or lie: an error, never a panic, never more memory than the file could fill.

use crate::{largest, tiny};
use proptest::prelude::*;
use stageline_shard::{Header, ModelFolder};

/// Reads a header in memory. Where it is accepted, its tensors must tile the file; and no allocation may go beyond what
/// the bytes that are there could ask for (names and lists are at most as long as their JSON; a map's nodes and an error's
/// words take some more).
fn check(file: &[u8]) -> Result<Header, String> {
    let (read, largest) = largest::during(|| Header::of_file(file));
    assert!(largest <= 16 * file.len() + 8192, "{largest} bytes at once for a file of {}", file.len());
    if let Ok(header) = &read {
        let mut ranges: Vec<_> = header.tensors.values().map(|tensor| tensor.bytes.clone()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut next = header.data_start;
        for range in ranges {
            assert_eq!(range.start, next);
            next = range.end;
        }
        assert_eq!(next, file.len() as u64);
        for tensor in header.tensors.values() {
            assert_eq!(tensor.shape.bytes(), Some(tensor.bytes.end - tensor.bytes.start));
        }
    }
    read
}

/// A small file's header and data.
fn small() -> (String, Vec<u8>) {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[0],"data_offsets":[32,32]}}"#;
    (header.into(), vec![5; 32])
}

#[test]
fn a_valid_file_is_read() {
    let (header, data) = small();
    let read = check(&tiny::with_header(header.as_bytes(), &data)).unwrap();
    assert_eq!(read.tensors.len(), 3);
    assert_eq!(read.tensors["b"].bytes.start, 8 + header.len() as u64 + 24);
    assert!(check(&tiny::with_header(format!("{header}   ").as_bytes(), &data)).is_ok());
    assert!(check(&tiny::with_header(b"{}", &[])).is_ok());
}

#[test]
fn each_lie_is_told_apart() {
    let (header, data) = small();
    let nine = "1,".repeat(8) + "6";
    for (from, to, said) in [
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[16,24]"#, "overlaps"),
        (r#""shape":[4],"data_offsets":[24,32]"#, r#""shape":[3],"data_offsets":[26,32]"#, "leaves a hole"),
        (r#""shape":[4],"data_offsets":[24,32]"#, r#""shape":[3],"data_offsets":[24,30]"#, "leaves a hole"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[32,24]"#, "truncated or lies"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[24,33]"#, "truncated or lies"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[24,18446744073709551615]"#, "truncated or lies"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[24,18446744073709551616]"#, "cannot be read"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[-1,32]"#, "cannot be read"),
        (r#""data_offsets":[24,32]"#, r#""data_offsets":[24,32,40]"#, "cannot be read"),
        (r#""shape":[4]"#, r#""shape":[5]"#, "does not make its 8 bytes"),
        (r#""shape":[4]"#, r#""shape":[4294967296,4294967296,4]"#, "does not make its 8 bytes"),
        (r#""shape":[4]"#, r#""shape":[1.5]"#, "cannot be read"),
        (r#""shape":[2,3]"#, &format!(r#""shape":[{nine}]"#), "at most 8 dimensions"),
        (r#""dtype":"BF16""#, r#""dtype":"F4""#, "does not make its 8 bytes"),
        (r#""dtype":"BF16""#, r#""dtype":"Q4""#, "unknown variant"),
        (r#""b":{"#, r#""a":{"#, r#""a" comes twice"#),
        (r#""a":{"#, r#""__metadata__":{"#, "cannot be read"),
        (r#""dtype":"I64""#, r#""magic":1,"dtype":"I64""#, "unknown field"),
        (r#"{"format":"pt"}"#, r#"{"format":7}"#, "cannot be read"),
        (r#"{"__m"#, r#" {"__m"#, "is not a JSON object"),
        (r#","c":{"dtype":"I64","shape":[0],"data_offsets":[32,32]}}"#, "", "cannot be read"),
    ] {
        let lie = header.replacen(from, to, 1);
        assert_ne!(lie, header, "{from}");
        let error = check(&tiny::with_header(lie.as_bytes(), &data)).unwrap_err();
        assert!(error.contains(said), "{to}: {error}");
    }
    let more = check(&tiny::with_header(header.as_bytes(), &[5; 33])).unwrap_err();
    assert!(more.contains("1 bytes follow its last tensor"), "{more}");
    for length in [33_u64, 1 << 20, 1 << 40, u64::MAX] {
        let error = check(&[&length.to_le_bytes()[..], &[b'{'; 32]].concat()).unwrap_err();
        assert!(error.contains(&format!("claims {length} bytes")), "{error}");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let whole = tiny::file(&tiny::llama());
    let dir = tempfile::tempdir().unwrap();
    assert!(check(&whole).is_ok());
    for length in (0..whole.len()).filter(|n| *n < 64 || n.is_multiple_of(7) || *n + 64 > whole.len()) {
        let error = check(&whole[..length]).unwrap_err();
        // The reader of folders says the same.
        std::fs::write(dir.path().join("model.safetensors"), &whole[..length]).unwrap();
        let (folder, largest) = largest::during(|| ModelFolder::open(dir.path()));
        assert!(folder.unwrap_err().message.ends_with(&error), "{error}");
        assert!(largest <= 16 * whole.len() + 8192);
    }
}

/// Pieces that a header is made of, to be put anywhere in one.
const PIECES: [&str; 12] = ["{", "}", "[", "]", ",", "\"", "9", "-", "e308", "null", "99999999999999999999", "\\u0000"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn bytes_changed_at_random(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (header, data) = small();
        let mut file = tiny::with_header(header.as_bytes(), &data);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = check(&file);
    }

    #[test]
    fn pieces_put_in_at_random(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..PIECES.len(), 0_usize..4), 1..4),
    ) {
        let (mut header, data) = small();
        for (at, piece, over) in changes {
            let at = at.index(header.len());
            let end = (at + over).min(header.len());
            header.replace_range(at..end, PIECES[piece]);
        }
        let _ = check(&tiny::with_header(header.as_bytes(), &data));
    }

    #[test]
    fn numbers_changed_at_random(a in any::<[u64; 3]>(), b in any::<[u64; 3]>(), small_ones in any::<bool>()) {
        let bound = |n: u64| if small_ones { n % 40 } else { n };
        let list = |n: [u64; 3]| format!(r#""shape":[{}],"data_offsets":[{},{}]"#, bound(n[0]), bound(n[1]), bound(n[2]));
        let header = format!(r#"{{"a":{{"dtype":"U8",{}}},"b":{{"dtype":"F16",{}}}}}"#, list(a), list(b));
        let _ = check(&tiny::with_header(header.as_bytes(), &[0; 32]));
    }
}
