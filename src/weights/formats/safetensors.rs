//! The safetensors header: `u64 length | JSON {name: {dtype, shape, data_offsets}} | data`.
//! As strict as the format's own reference reader: the tensors tile the data without gap or overlap.

use crate::error::{Error, Result};
use crate::weights::file::FileMeta;
use crate::weights::header::HeaderReader;
use crate::weights::source::Source;
use crate::weights::{Dtype, TensorInfo};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Longest header that is read, in bytes; the largest MobileLLM's is 60 KB.
pub const MAX_HEADER: u64 = 25_000_000;

/// The tensors of a file, each with the offset of its first byte, sorted by offset.
pub async fn tensors<S: Source>(reader: &HeaderReader<'_, S>) -> Result<Vec<(TensorInfo, u64)>> {
    let FileMeta { name, size, .. } = reader.file;
    if *size < 8 {
        return Err(Error::checkpoint(name, format!("{size} bytes are no checkpoint")));
    }
    let mut first = [0; 8];
    first.copy_from_slice(&reader.read(0..8).await?);
    let len = header_len(name, first, Some(*size))?;
    let (tensors, end) = parse_header(name, &reader.read(8..8 + len).await?)?;
    if end != *size {
        return Err(Error::checkpoint(name, format!("the file has {size} bytes, its header says {end}")));
    }
    Ok(tensors)
}

/// Length of the JSON header that follows the first 8 bytes of a file of `size` bytes (if known).
pub fn header_len(file: &str, first: [u8; 8], size: Option<u64>) -> Result<u64> {
    let len = u64::from_le_bytes(first);
    if len < 2 {
        return Err(Error::checkpoint(file, format!("header of {len} bytes is too short")));
    }
    if len > MAX_HEADER {
        return Err(Error::checkpoint(file, format!("header of {len} bytes is larger than {MAX_HEADER}")));
    }
    match size {
        Some(size) if len + 8 > size => {
            Err(Error::checkpoint(file, format!("header of {len} bytes is longer than the file ({size})")))
        }
        _ => Ok(len),
    }
}

/// Parses the JSON `header`. Returns each tensor with the offset of its first byte in the file, sorted by
/// offset, and the length that the file must have.
pub fn parse_header(file: &str, header: &[u8]) -> Result<(Vec<(TensorInfo, u64)>, u64)> {
    let refuse = |problem: String| Err(Error::checkpoint(file, problem));
    if header.first() != Some(&b'{') {
        return refuse("header does not start with {".into());
    }
    let Entries { entries, metadata } = match serde_json::from_slice::<Entries>(header) {
        Ok(found) => found,
        Err(e) => return refuse(format!("header: {e}")),
    };
    let data = 8 + header.len() as u64;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, mut shape, data_offsets: [start, end] }) in entries {
        let packed = metadata.get(&name).filter(|_| dtype == "U8").and_then(|kind| packed(kind, &shape));
        let dtype = match (dtype.as_str(), packed) {
            (_, Some((dtype, unpacked))) => {
                shape = unpacked;
                dtype
            }
            ("F16", _) => Dtype::F16,
            ("BF16", _) => Dtype::Bf16,
            ("F32", _) => Dtype::F32,
            // Whether it matters is for the model to say. Its size follows from the offsets, which are checked like all others.
            _ => {
                let elements = shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d));
                let bits = end.saturating_sub(start).saturating_mul(8);
                if elements > 0 && !bits.is_multiple_of(elements) {
                    return refuse(format!(
                        "tensor {name}: shape {shape:?} of {dtype} does not fit {} bytes",
                        bits / 8
                    ));
                }
                Dtype::Unread { name: dtype.as_str().into(), bits: bits.checked_div(elements).unwrap_or(0) }
            }
        };
        let Some(info) = TensorInfo::checked(name.clone(), dtype, &shape) else {
            return refuse(format!("tensor {name}: shape {shape:?} overflows"));
        };
        if start > end {
            return refuse(format!("tensor {name}: offsets {start}..{end} run backwards"));
        }
        if end > 1 << 53 {
            return refuse(format!("tensor {name}: offset {end} is out of range"));
        }
        if end - start != info.bytes() {
            return refuse(format!(
                "tensor {name}: shape {shape:?} of {:?} takes {} bytes, offsets give {}",
                info.dtype,
                info.bytes(),
                end - start
            ));
        }
        tensors.push((info, start));
    }
    tensors.sort_by(|(a, a_at), (b, b_at)| (a_at, a.bytes(), &a.name).cmp(&(b_at, b.bytes(), &b.name)));
    let mut covered = 0;
    for (info, start) in &mut tensors {
        if *start < covered {
            return refuse(format!("tensor {}: overlaps the tensor before it at offset {start}", info.name));
        }
        if *start > covered {
            return refuse(format!("tensor {}: gap of {} bytes before it", info.name, *start - covered));
        }
        covered += info.bytes();
        *start += data;
    }
    Ok((tensors, data + covered))
}

/// A matrix in blocks, as `mobilellm convert` writes it: its rows are bytes, and the metadata has the blocks' type under its name.
fn packed(kind: &str, shape: &[u64]) -> Option<(Dtype, Vec<u64>)> {
    let dtype = match kind {
        "Q8_0" => Dtype::Q8_0,
        "Q4_1" => Dtype::Q4_1,
        _ => return None,
    };
    let (&[rows, row], (block, bytes)) = (shape, dtype.block()) else { return None };
    row.is_multiple_of(bytes).then(|| (dtype, vec![rows, row / bytes * block]))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries; unlike a map it notices a name that is given twice.
struct Entries {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> serde::Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut seen = HashSet::new();
                let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("tensor {name} is given twice")));
                    }
                    if name == "__metadata__" {
                        let given = map.next_value::<Option<BTreeMap<String, String>>>();
                        metadata =
                            given.map_err(|e| A::Error::custom(format!("__metadata__: {e}")))?.unwrap_or_default();
                    } else {
                        let entry = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                        entries.push((name, entry));
                    }
                }
                Ok(Entries { entries, metadata })
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(header: &str) -> String {
        match parse_header("m.safetensors", header.as_bytes()) {
            Err(Error::Checkpoint { file, problem }) if file == "m.safetensors" => problem,
            other => panic!("{header} gave {other:?}"),
        }
    }

    #[test]
    fn reads_what_the_format_says() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},
            "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"e":{"dtype":"F16","shape":[0,4],"data_offsets":[16,16]}}  "#;
        let (tensors, size) = parse_header("m", header.as_bytes()).unwrap();
        let base = 8 + header.len() as u64;
        let seen: Vec<_> = tensors.iter().map(|(t, at)| (t.name.as_str(), t.dtype, &t.shape[..], at - base)).collect();
        let (none, two): (&[usize], &[usize]) = (&[], &[2, 3]);
        assert_eq!(seen, [("a", Dtype::Bf16, two, 0), ("b", Dtype::F32, none, 12), ("e", Dtype::F16, &[0, 4], 16)]);
        assert_eq!(size, base + 16);
    }

    #[test]
    fn no_metadata_and_dtypes_that_are_not_read() {
        let header = r#"{"__metadata__":null,"i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},
            "b":{"dtype":"BOOL","shape":[3],"data_offsets":[16,19]},"f":{"dtype":"F4","shape":[10],"data_offsets":[19,24]},
            "n":{"dtype":"F64","shape":[0],"data_offsets":[24,24]},"w":{"dtype":"F16","shape":[1],"data_offsets":[24,26]}}"#;
        let (tensors, size) = parse_header("m", header.as_bytes()).unwrap();
        assert_eq!(size, 8 + header.len() as u64 + 26);
        let seen: Vec<_> = tensors.iter().map(|(t, _)| (t.name.as_str(), t.bytes())).collect();
        assert_eq!(seen, [("i", 16), ("b", 3), ("f", 5), ("n", 0), ("w", 2)]);
    }

    #[test]
    fn one_error_for_each_lie() {
        for (header, says) in [
            (r#"[]"#, "does not start"),
            (r#"{"a":"#, "EOF while parsing"),
            (r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}x"#, "trailing"),
            (
                r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#,
                "tensor a is given twice",
            ),
            (r#"{"a":{"dtype":"F16","dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#, "tensor a: duplicate field"),
            (r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2],"x":1}}"#, "tensor a: unknown field"),
            (r#"{"a":{"shape":[1],"data_offsets":[0,2]}}"#, "tensor a: missing field `dtype`"),
            (
                r#"{"a":{"dtype":"I64","shape":[3],"data_offsets":[0,8]}}"#,
                "tensor a: shape [3] of I64 does not fit 8 bytes",
            ),
            (r#"{"a":{"dtype":"I64","shape":[0],"data_offsets":[0,8]}}"#, "tensor a: shape"),
            (r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[8,0]}}"#, "tensor a: offsets"),
            (r#"{"a":{"dtype":"I64","shape":[9223372036854775807,2],"data_offsets":[0,8]}}"#, "tensor a: shape"),
            (r#"{"a":{"dtype":"F16","shape":[-1],"data_offsets":[0,2]}}"#, "tensor a: invalid"),
            (r#"{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,2]}}"#, "tensor a: expected"),
            (r#"{"a":{"dtype":"F16","shape":[1.5],"data_offsets":[0,2]}}"#, "tensor a: invalid"),
            (r#"{"a":{"dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,2]}}"#, "tensor a: shape"),
            (r#"{"a":{"dtype":"F16","shape":[9223372036854775807,2],"data_offsets":[0,2]}}"#, "overflows"),
            (
                r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,4]}}"#,
                "tensor a: shape [3] of F16 takes 6 bytes, offsets give 4",
            ),
            (r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[4,2]}}"#, "tensor a: offsets 4..2 run backwards"),
            (
                r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[18446744073709551613,18446744073709551615]}}"#,
                "tensor a: offset",
            ),
            (
                r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#,
                "tensor b: overlaps",
            ),
            (r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#, "tensor a: gap of 2"),
            (r#"{"__metadata__":{"n":1}}"#, "__metadata__"),
        ] {
            let problem = problem(header);
            assert!(problem.contains(says), "{header}: {problem}");
        }
        let len = |n: u64, size| header_len("m", n.to_le_bytes(), size).map_err(|e| e.to_string());
        assert!(len(1, None).unwrap_err().contains("too short"));
        assert!(len(u64::MAX, None).unwrap_err().contains("larger"));
        assert!(len(100, Some(107)).unwrap_err().contains("longer than the file"));
        assert_eq!(len(100, Some(108)), Ok(100));
    }

    proptest! {
        #[test]
        fn never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_header("m", &noise);
        }

        /// Mutations of a sound header either fail or still tile the data.
        #[test]
        fn mutated_headers(at in 0usize..200, byte in any::<u8>()) {
            let mut header = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[4],"data_offsets":[12,28]}}"#.to_vec();
            let at = at % header.len();
            header[at] = byte;
            if let Ok((tensors, size)) = parse_header("m", &header) {
                let data: u64 = tensors.iter().map(|(t, _)| t.bytes()).sum();
                prop_assert_eq!(8 + header.len() as u64 + data, size);
            }
        }
    }
}
