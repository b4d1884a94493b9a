//! `pytorch_model.bin`: a zip archive of one pickle and a raw record for each storage. Read by ranges: the end of the
//! archive, its directory, the pickle, and the local header of each record. The pickle runs on a machine that knows the few
//! opcodes and names of a state dict of plain tensors and refuses the rest: nothing is ever executed.

mod pickle;
mod zip;

use crate::error::{Error, Result};
use crate::weights::TensorInfo;
use crate::weights::header::HeaderReader;
use crate::weights::names::left_over;
use crate::weights::source::Source;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use pickle::{MAX_PICKLE, Stored, unpickle};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;
use zip::{MAX_END, end_of_directory, local_header, read_directory, zip64_directory};

/// Local headers read at a time.
const PARALLEL: usize = 8;

/// The tensors of the archive, each with the offset of its first byte, sorted by offset.
pub async fn tensors<S: Source>(reader: &HeaderReader<'_, S>) -> Result<Vec<(TensorInfo, u64)>> {
    let (file, name) = (reader.file, &reader.file.name);
    let refuse = |problem: String| Error::checkpoint(name, problem);

    let tail = reader.read(file.size.saturating_sub(MAX_END)..file.size).await?;
    let (directory, zip64) = end_of_directory(&tail, file.size).map_err(&refuse)?;
    let directory = match zip64 {
        None => directory,
        Some(at) => zip64_directory(&reader.read(at..at + 56).await?, file.size).map_err(&refuse)?,
    };
    let entries = read_directory(&reader.read(directory).await?).map_err(&refuse)?;

    let pickle = entries
        .keys()
        .find(|n| n.ends_with("/data.pkl") && n.matches('/').count() == 1)
        .ok_or_else(|| refuse("no data.pkl: not a checkpoint of torch.save".into()))?;
    let root = pickle.trim_end_matches("data.pkl");
    let locate = async |entry: &str, limit: u64| {
        let found = entries.get(entry).ok_or_else(|| refuse(format!("record {entry} is missing")))?;
        if found.size > limit {
            return Err(refuse(format!("record {entry} has {} bytes, more than {limit}", found.size)));
        }
        let end = found.header.checked_add(30 + entry.len() as u64).filter(|end| *end <= file.size);
        let end = end.ok_or_else(|| refuse(format!("record {entry} lies beyond the end of the file")))?;
        let data = found.header + local_header(&reader.read(found.header..end).await?, entry).map_err(&refuse)?;
        match data.checked_add(found.size) {
            Some(end) if end <= file.size => Ok(data..end),
            _ => Err(refuse(format!("record {entry} reaches beyond the end of the file"))),
        }
    };
    let order = format!("{root}byteorder");
    if entries.contains_key(&order) && reader.read(locate(&order, 16).await?).await? != b"little" {
        return Err(refuse("its numbers are not little-endian".into()));
    }
    let state =
        unpickle(&reader.read(locate(pickle, MAX_PICKLE).await?).await?).map_err(|e| refuse(format!("pickle: {e}")))?;

    let keys: HashSet<_> = state.iter().map(|t| t.storage.key.clone()).collect();
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort();
    let records: HashMap<Rc<str>, Range<u64>> = stream::iter(keys)
        .map(async |key| locate(&format!("{root}data/{key}"), u64::MAX).await.map(|range| (key, range)))
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let mut places: Vec<_> = records.values().filter(|r| !r.is_empty()).collect();
    places.sort_by_key(|r| r.start);
    if places.windows(2).any(|two| two[0].end > two[1].start) {
        return Err(refuse("two records overlap".into()));
    }

    let mut tensors = Vec::with_capacity(state.len());
    for Stored { name, storage, offset, shape, strides } in state {
        let record = &records[&storage.key];
        let refuse = |problem: String| refuse(format!("tensor {name}: {problem}"));
        let size = storage.dtype.bytes(1);
        if storage.elements.checked_mul(size) != Some(record.end - record.start) {
            return Err(refuse(format!(
                "its storage of {} elements has a record of {} bytes",
                storage.elements,
                record.end - record.start
            )));
        }
        let info = TensorInfo::checked(name.to_string(), storage.dtype, &shape)
            .ok_or_else(|| refuse(format!("shape {shape:?} overflows")))?;
        if !row_major(&shape, &strides) {
            // Masks and the like are often views.
            if left_over(&name) {
                continue;
            }
            return Err(refuse(format!("is not row-major: shape {shape:?}, strides {strides:?}")));
        }
        let start = offset.checked_mul(size).and_then(|o| o.checked_add(record.start));
        match start {
            Some(start) if start.checked_add(info.bytes()).is_some_and(|end| end <= record.end) => {
                tensors.push((info, start));
            }
            _ => return Err(refuse("reaches beyond its storage".into())),
        }
    }
    tensors.sort_by(|(a, a_at), (b, b_at)| (a_at, &a.name).cmp(&(b_at, &b.name)));
    Ok(tensors)
}

/// Whether the elements lie one after the other; the shape's product is known to be countable.
fn row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut dense = 1;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n <= 1 || stride == dense;
        dense *= n.max(1);
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::file::FileMeta;
    use crate::weights::plan::Plan;
    use proptest::prelude::*;

    /// A file in memory.
    struct OneFile(Vec<u8>);

    impl Source for OneFile {
        type Bytes = Vec<u8>;

        fn id(&self) -> String {
            "memory".into()
        }

        async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
            Ok((name == "pytorch_model.bin").then(|| FileMeta::new(name, self.0.len() as u64)))
        }

        async fn read(&self, _: &FileMeta, range: Range<u64>, _: usize, _: &dyn Fn(u64)) -> Result<Vec<u8>> {
            Ok(self.0[range.start as usize..range.end as usize].to_vec())
        }
    }

    fn read(file: Vec<u8>) -> Result<Vec<(String, Vec<usize>, u64)>> {
        let plan = pollster::block_on(Plan::read(&OneFile(file)))?.0;
        Ok(plan.tensors.into_iter().map(|t| (t.info.name, t.info.shape, t.start)).collect())
    }

    fn problem(file: Vec<u8>) -> String {
        match read(file) {
            Err(Error::Checkpoint { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    /// A stored zip archive.
    fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in entries {
            let size = (data.len() as u32).to_le_bytes();
            let name_len = (name.len() as u16).to_le_bytes();
            let header = (file.len() as u32).to_le_bytes();
            directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            directory.extend([size, size].concat());
            directory.extend(name_len);
            directory.extend([0; 12]);
            directory.extend(header);
            directory.extend(name.as_bytes());
            file.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            file.extend([size, size].concat());
            file.extend(name_len);
            file.extend([0; 2]);
            file.extend(name.as_bytes());
            file.extend(*data);
        }
        let start = (file.len() as u32).to_le_bytes();
        let count = (entries.len() as u16).to_le_bytes();
        file.extend(&directory);
        file.extend(b"PK\x05\x06\0\0\0\0");
        file.extend([count, count].concat());
        file.extend((directory.len() as u32).to_le_bytes());
        file.extend(start);
        file.extend([0; 2]);
        file
    }

    fn archive(pickle: &[u8]) -> Vec<u8> {
        zip(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &[7; 24])])
    }

    fn text(s: &str) -> Vec<u8> {
        [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
    }

    /// `{"w": tensor}` of the given storage class, elements, offset, shape and strides, in opcodes.
    fn pickle(class: &str, elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
        let ints = |ns: &[u8]| [&b"("[..], &ns.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>(), b"t"].concat();
        [
            &b"\x80\x02}q\0"[..],
            &text("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            format!("ctorch\n{class}\n").as_bytes(),
            &text("0"),
            &text("cpu"),
            &[b'K', elements],
            b"tQ",
            &[b'K', offset],
            &ints(shape),
            &ints(strides),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        ]
        .concat()
    }

    #[test]
    fn reads_a_state_dict() {
        let file = archive(&pickle("HalfStorage", 12, 2, &[2, 5], &[5, 1]));
        let record = file.windows(24).position(|w| w == [7; 24]).unwrap() as u64;
        assert_eq!(read(file).unwrap(), [("w".to_string(), vec![2, 5], record + 4)]);
        let file = archive(&pickle("FloatStorage", 6, 0, &[1, 6, 1], &[99, 1, 50]));
        assert_eq!(read(file).unwrap()[0].1, [1, 6, 1], "strides of axes of length 1 do not matter");
    }

    #[test]
    fn one_error_for_each_lie_of_the_pickle() {
        let good = || pickle("HalfStorage", 12, 0, &[2, 6], &[6, 1]);
        let edited = |from: &[u8], to: &[u8]| {
            let bytes = good();
            let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
            [&bytes[..at], to, &bytes[at + from.len()..]].concat()
        };
        for (pickle, says) in [
            (b"cos\nsystem\n(X\x02\0\0\0lstR.".to_vec(), "os.system is not one of the names"),
            (b"\x80\x02cbuiltins\neval\n.".to_vec(), "builtins.eval"),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "os.system"),
            (b"(i__builtin__\neval\n.".to_vec(), "opcode 0x69"),
            (b"\x80\x02\x82\x01.".to_vec(), "opcode 0x82"),
            (b"\x80\x09.".to_vec(), "protocol 9"),
            (b"\x80\x02]q\0.".to_vec(), "not a dict"),
            (b"\x80\x02}".to_vec(), "cut off"),
            (b"\x80\x02}R.".to_vec(), "the stack is empty"),
            (b"\x80\x02t.".to_vec(), "no mark"),
            (b"\x80\x02h\x05.".to_vec(), "memo 5 is empty"),
            (b"\x80\x02X\xff\xff\xff\x7fa.".to_vec(), "cut off"),
            (b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\0.".to_vec(), "more than 64 bits"),
            (b"\x80\x02}K\x01K\x01s.".to_vec(), "a key is not a text"),
            (edited(b"HalfStorage", b"HashStorage"), "torch.HashStorage"),
            (edited(b"storage", b"st0rage"), "not a storage"),
            (edited(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "_rebuild_tensor_v9"),
            (pickle("HalfStorage", 12, 0, &[2, 6], &[1, 2]), "tensor w: is not row-major"),
            (pickle("HalfStorage", 12, 0, &[2, 6], &[6]), "does not fit strides"),
            (pickle("HalfStorage", 12, 0, &[2, 7], &[7, 1]), "tensor w: reaches beyond its storage"),
            (pickle("HalfStorage", 12, 1, &[2, 6], &[6, 1]), "tensor w: reaches beyond its storage"),
            (
                pickle("FloatStorage", 12, 0, &[2, 6], &[6, 1]),
                "tensor w: its storage of 12 elements has a record of 24",
            ),
            (pickle("HalfStorage", 12, 0, &[255; 8], &[1; 8]), "tensor w: shape"),
        ] {
            let problem = problem(archive(&pickle));
            assert!(problem.contains(says), "{problem} does not say {says}");
        }
        let twice = [&good()[..good().len() - 1], &good()[5..]].concat();
        assert!(problem(archive(&twice)).contains("tensor w is given twice"));
    }

    #[test]
    fn one_error_for_each_lie_of_the_archive() {
        let pickle = pickle("HalfStorage", 12, 0, &[2, 6], &[6, 1]);
        let good = archive(&pickle);
        let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        let end = good.len() - 22;
        let edited = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        assert!(read(good.clone()).is_ok());
        for (file, says) in [
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "before PyTorch 1.6"),
            (vec![0; 10], "not a zip archive"),
            (edited(end + 16, &[0xff, 0xff, 0, 0]), "beyond the end"),
            (edited(end + 12, &[0, 0, 0, 0x7f]), "is larger than"),
            (edited(end + 4, &[1, 0]), "several volumes"),
            (edited(directory + 10, &[8, 0]), "is compressed"),
            (edited(directory + 20, &[1, 0, 0, 0]), "is compressed"),
            (edited(directory + 8, &[1, 0]), "is encrypted"),
            (edited(directory + 42, &[3, 0, 0, 0]), "contradicts the directory"),
            (edited(directory + 42, &[0, 0, 0, 0x7f]), "beyond the end"),
            (edited(directory, b"PK\x01\x03"), "directory is damaged"),
            (edited(30, b"b"), "contradicts the directory"),
            (edited(directory + 46, b"\xff"), "not UTF-8"),
            (zip(&[("a/data.pkl", &pickle)]), "record a/data/0 is missing"),
            (zip(&[("a/weights", &pickle)]), "no data.pkl"),
            (zip(&[("a/data.pkl", &pickle), ("a/data.pkl", &pickle)]), "there twice"),
            (zip(&[("a/data.pkl", &pickle), ("a/byteorder", b"big"), ("a/data/0", &[7; 24])]), "little-endian"),
            (zip(&[("a/data.pkl", &vec![b'N'; MAX_PICKLE as usize + 1])]), "more than"),
        ] {
            let problem = problem(file);
            assert!(problem.contains(says), "{problem} does not say {says}");
        }
    }

    /// Ten million nested tuples would overflow the stack of a recursive machine.
    #[test]
    fn deep_nesting_is_harmless() {
        let mut bytes = b"\x80\x02N".to_vec();
        bytes.resize(MAX_PICKLE as usize - 1, 0x85);
        bytes.push(b'.');
        assert!(problem(archive(&bytes)).contains("not a dict"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn mutated_archives_never_panic(at in any::<prop::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 1..6), cut in any::<prop::sample::Index>(), cuts in 0..4) {
            let mut file = archive(&pickle("HalfStorage", 12, 0, &[2, 6], &[6, 1]));
            let at = at.index(file.len());
            let end = (at + with.len()).min(file.len());
            file[at..end].copy_from_slice(&with[..end - at]);
            if cuts == 0 {
                file.truncate(cut.index(file.len()));
            }
            let size = file.len() as u64;
            if let Ok(tensors) = read(file) {
                for (_, shape, start) in tensors {
                    prop_assert!(start + 2 * shape.iter().product::<usize>() as u64 <= size);
                }
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpickle(&noise);
            let _ = read_directory(&noise);
            let _ = end_of_directory(&noise, noise.len() as u64);
        }
    }
}
