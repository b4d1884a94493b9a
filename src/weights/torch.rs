//! `pytorch_model.bin`: a zip archive of one pickle and a raw record for each storage. Read by ranges: the end of the
//! archive, its directory, the pickle, and the local header of each record. The pickle runs on a machine that knows the few
//! opcodes and names of a state dict of plain tensors and refuses the rest: nothing is ever executed.

use super::plan::HeaderReader;
use super::source::Source;
use super::{Dtype, TensorInfo};
use crate::error::{Error, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

/// Longest zip directory and longest pickle, in bytes; those of the 1.5B model are 50 KB and 100 KB.
const MAX_DIRECTORY: u64 = 4 << 20;
const MAX_PICKLE: u64 = 2 << 20;
/// End-of-directory record with the longest comment.
const MAX_END: u64 = 22 + 65535;
/// Local headers read at a time.
const PARALLEL: usize = 8;

/// The tensors of the archive, each with the offset of its first byte, sorted by offset.
pub(super) async fn tensors<S: Source>(reader: &HeaderReader<'_, S>) -> Result<Vec<(TensorInfo, u64)>> {
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
        let size = storage.dtype.size() as u64;
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

type Problem<T> = std::result::Result<T, String>;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Problem<u64> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end)).ok_or("the zip directory is cut off")?;
    Ok(part.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// Range of the directory, or the offset of the zip64 record that tells it.
fn end_of_directory(tail: &[u8], file_size: u64) -> Problem<(Range<u64>, Option<u64>)> {
    let at = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|&at| {
            tail[at..].starts_with(b"PK\x05\x06")
                && number::<2>(tail, at + 20).is_ok_and(|n| at + 22 + n as usize == tail.len())
        })
        .ok_or("not a zip archive (checkpoints from before PyTorch 1.6 are not supported)")?;
    if !matches!(number::<2>(tail, at + 4)?, 0 | 0xffff) {
        return Err("a zip archive of several volumes".into());
    }
    let (size, start) = (number::<4>(tail, at + 12)?, number::<4>(tail, at + 16)?);
    if let Some(locator) = at.checked_sub(20)
        && tail[locator..].starts_with(b"PK\x06\x07")
    {
        let offset = number::<8>(tail, locator + 8)?;
        if offset.checked_add(56).is_none_or(|end| end > file_size) {
            return Err("the zip64 record lies beyond the end of the file".into());
        }
        return Ok((0..0, Some(offset)));
    }
    directory_range(start, size, file_size).map(|range| (range, None))
}

fn zip64_directory(record: &[u8], file_size: u64) -> Problem<Range<u64>> {
    if !record.starts_with(b"PK\x06\x06") {
        return Err("the zip64 record is missing".into());
    }
    directory_range(number::<8>(record, 48)?, number::<8>(record, 40)?, file_size)
}

fn directory_range(start: u64, size: u64, file_size: u64) -> Problem<Range<u64>> {
    if size > MAX_DIRECTORY {
        return Err(format!("a zip directory of {size} bytes is larger than {MAX_DIRECTORY}"));
    }
    match start.checked_add(size) {
        Some(end) if end <= file_size => Ok(start..end),
        _ => Err("the zip directory lies beyond the end of the file".into()),
    }
}

/// One file of the archive.
struct Entry {
    /// Offset of its local header.
    header: u64,
    size: u64,
}

fn read_directory(bytes: &[u8]) -> Problem<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at..].starts_with(b"PK\x01\x02") {
            return Err("the zip directory is damaged".into());
        }
        let (flags, method) = (number::<2>(bytes, at + 8)?, number::<2>(bytes, at + 10)?);
        let (mut packed, mut size) = (number::<4>(bytes, at + 20)?, number::<4>(bytes, at + 24)?);
        let lengths = [number::<2>(bytes, at + 28)?, number::<2>(bytes, at + 30)?, number::<2>(bytes, at + 32)?];
        let [name_len, extra_len, comment_len] = lengths.map(|n| n as usize);
        let mut header = number::<4>(bytes, at + 42)?;
        let name = bytes.get(at + 46..at + 46 + name_len).ok_or("the zip directory is cut off")?;
        let name = std::str::from_utf8(name).map_err(|_| "a zip entry's name is not UTF-8")?.to_owned();
        let mut extra =
            bytes.get(at + 46 + name_len..at + 46 + name_len + extra_len).ok_or("the zip directory is cut off")?;
        while extra.len() >= 4 {
            let (id, len) = (number::<2>(extra, 0)?, number::<2>(extra, 2)? as usize);
            let field = extra.get(4..4 + len).ok_or("a zip entry's extra field is cut off")?;
            if id == 1 {
                // Zip64: those of the three that do not fit into 32 bits, in this order.
                let big = [&mut size, &mut packed, &mut header].into_iter().filter(|n| **n == u64::from(u32::MAX));
                for (n, value) in big.enumerate() {
                    *value = number::<8>(field, n * 8)?;
                }
            }
            extra = &extra[4 + len..];
        }
        if method != 0 || packed != size {
            return Err(format!("record {name} is compressed; torch.save stores records plainly"));
        }
        if flags & 1 != 0 {
            return Err(format!("record {name} is encrypted"));
        }
        if entries.insert(name.clone(), Entry { header, size }).is_some() {
            return Err(format!("record {name} is there twice"));
        }
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(entries)
}

/// Length of the local header of `entry`: its data begins behind it.
fn local_header(bytes: &[u8], entry: &str) -> Problem<u64> {
    let named = number::<2>(bytes, 26)? as usize == entry.len() && bytes.get(30..) == Some(entry.as_bytes());
    if !bytes.starts_with(b"PK\x03\x04") || !named {
        return Err(format!("record {entry}: its local header contradicts the directory"));
    }
    Ok(30 + entry.len() as u64 + number::<2>(bytes, 28)?)
}

/// One tensor of the state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    name: Rc<str>,
    storage: Storage,
    /// In elements.
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Storage {
    dtype: Dtype,
    key: Rc<str>,
    elements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Dtype),
}

fn global(module: &str, name: &str) -> Problem<Global> {
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch", "HalfStorage") => Ok(Global::Storage(Dtype::F16)),
        ("torch", "BFloat16Storage") => Ok(Global::Storage(Dtype::Bf16)),
        ("torch", "FloatStorage") => Ok(Global::Storage(Dtype::F32)),
        _ => Err(format!("{module}.{name} is not one of the names that are read")),
    }
}

/// Values lie in one list and refer to each other by number: no depth of nesting can overflow the stack.
type Id = usize;

#[derive(Debug, Clone)]
enum Value {
    /// None, a float, an attribute's state: nothing that is looked at.
    Other,
    Mark,
    Int(i64),
    Text(Rc<str>),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor {
        storage: Storage,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
    },
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u64, Id>,
}

/// Runs a pickle whose result is a dict of named tensors.
fn unpickle(bytes: &[u8]) -> Problem<Vec<Stored>> {
    let mut machine = Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    let result = loop {
        if let Some(result) = machine.step()? {
            break result;
        }
    };
    let Value::Dict(items) = machine.value(result) else { return Err("the result is not a dict".into()) };
    let mut seen = HashSet::new();
    let mut tensors = Vec::with_capacity(items.len());
    for (key, value) in items {
        let Value::Text(name) = machine.value(*key) else { return Err("a key is not a text".into()) };
        let Value::Tensor { storage, offset, shape, strides } = machine.value(*value).clone() else {
            return Err(format!("{name} is not a tensor"));
        };
        if !seen.insert(name) {
            return Err(format!("tensor {name} is given twice"));
        }
        tensors.push(Stored { name: name.clone(), storage, offset, shape, strides });
    }
    Ok(tensors)
}

impl<'a> Machine<'a> {
    fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    fn take(&mut self, n: u64) -> Problem<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let part = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("cut off")?;
        self.at += part.len();
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Problem<u64> {
        Ok(self.take(N as u64)?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn text(&mut self, len: u64) -> Problem<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|_| "a text is not UTF-8".into())
    }

    fn line(&mut self) -> Problem<&'a str> {
        let len = self.bytes[self.at..].iter().position(|&b| b == b'\n').ok_or("cut off")?;
        let line = self.text(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Problem<Id> {
        match self.stack.pop() {
            Some(id) if !matches!(self.value(id), Value::Mark) => Ok(id),
            _ => Err("the stack is empty".into()),
        }
    }

    fn top(&self) -> Problem<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Problem<Vec<Id>> {
        let mark = self.stack.iter().rposition(|&id| matches!(self.value(id), Value::Mark)).ok_or("no mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, n: usize) -> Problem<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Problem<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Problem<()> {
        let dict = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err("a key has no value".into());
        }
        match &mut self.values[dict] {
            Value::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err("items are set in what is not a dict".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Problem<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Problem<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("memo {key} is empty"))?;
        self.stack.push(id);
        Ok(())
    }

    /// One opcode; the result at the last.
    fn step(&mut self) -> Problem<Option<Id>> {
        match self.number::<1>()? as u8 {
            0x80 => match self.number::<1>()? {
                2..=5 => {}
                other => return Err(format!("protocol {other} is not supported")),
            },
            0x95 => drop(self.number::<8>()?), // FRAME
            b'(' => self.push(Value::Mark),
            b'N' | 0x88 | 0x89 => self.push(Value::Other), // NONE, NEWTRUE, NEWFALSE
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'J' => {
                let n = self.number::<4>()? as u32 as i32;
                self.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = self.number::<1>()? as i64;
                self.push(Value::Int(n));
            }
            b'M' => {
                let n = self.number::<2>()? as i64;
                self.push(Value::Int(n));
            }
            0x8a => {
                let len = self.number::<1>()?;
                let bytes = self.take(len)?;
                if bytes.len() > 8 {
                    return Err("a number has more than 64 bits".into());
                }
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                self.push(Value::Int(i64::from_le_bytes(wide)));
            }
            b'X' => {
                let len = self.number::<4>()?;
                let text = self.text(len)?;
                self.push(Value::Text(text.into()));
            }
            0x8c => {
                let len = self.number::<1>()?;
                let text = self.text(len)?;
                self.push(Value::Text(text.into()));
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b']' => self.push(Value::List),
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b'q' => {
                let key = self.number::<1>()?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number::<4>()?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let key = self.number::<1>()?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number::<4>()?;
                self.recall(key)?;
            }
            b'a' => drop(self.pop()?), // APPEND and APPENDS: lists are not looked at
            b'e' => drop(self.pop_to_mark()?),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            b'b' => drop(self.pop()?), // BUILD: attributes such as _metadata
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(global(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (self.value(module), self.value(name)) else {
                    return Err("a name is not a text".into());
                };
                let global = global(module, name)?;
                self.push(Value::Global(global));
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(storage));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let result = self.call(function, arguments)?;
                self.push(result);
            }
            b'.' => return self.pop().map(Some),
            other => return Err(format!("opcode {other:#04x} is not one of those that are read")),
        }
        Ok(None)
    }

    fn items(&self, id: Id) -> Problem<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Ok(items),
            _ => Err("not a tuple".into()),
        }
    }

    fn sizes(&self, id: Id) -> Problem<Vec<u64>> {
        self.items(id)?.iter().map(|&item| self.size(item)).collect()
    }

    fn size(&self, id: Id) -> Problem<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n).map_err(|_| format!("{n} is not a size")),
            _ => Err("not a number".into()),
        }
    }

    /// `("storage", type, key, device, elements)`.
    fn storage(&self, id: Id) -> Problem<Storage> {
        let &[kind, dtype, key, _, elements] = self.items(id)? else {
            return Err("a persistent id is not a storage".into());
        };
        match (self.value(kind), self.value(dtype), self.value(key)) {
            (Value::Text(kind), Value::Global(Global::Storage(dtype)), Value::Text(key)) if &**kind == "storage" => {
                Ok(Storage { dtype: *dtype, key: key.clone(), elements: self.size(elements)? })
            }
            _ => Err("a persistent id is not a storage".into()),
        }
    }

    fn call(&self, function: Id, arguments: Id) -> Problem<Value> {
        let items = self.items(arguments)?;
        match (self.value(function), items) {
            (Value::Global(Global::OrderedDict), []) => Ok(Value::Dict(Vec::new())),
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => match self.value(*tensor) {
                tensor @ Value::Tensor { .. } => Ok(tensor.clone()),
                _ => Err("a parameter is not a tensor".into()),
            },
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = self.value(*storage) else {
                    return Err("a tensor without storage".into());
                };
                let (offset, shape, strides) = (self.size(*offset)?, self.sizes(*shape)?, self.sizes(*strides)?);
                if shape.len() != strides.len() || shape.len() > 8 {
                    return Err(format!("shape {shape:?} does not fit strides {strides:?}"));
                }
                Ok(Value::Tensor { storage: storage.clone(), offset, shape, strides })
            }
            _ => Err("a call that is not one of those that are read".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::plan::{FileMeta, Plan};
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
        let plan = pollster::block_on(Plan::of(&OneFile(file)))?;
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
            (edited(b"HalfStorage", b"LongStorage"), "torch.LongStorage"),
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
