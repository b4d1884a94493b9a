//! The header of a GGUF file: `"GGUF" | u32 version | u64 tensors | u64 keys | keys and values | tensors | padding | data`.
//! As strict as the format's own reader in C: tensors follow one another, each at a multiple of the alignment. Nothing is
//! allocated by a count that the file claims: values stay where they are in the header's bytes.

use crate::error::{Error, Result};
use crate::weights::file::FileMeta;
use crate::weights::header::HeaderReader;
use crate::weights::source::Source;
use crate::weights::{Dtype, TensorInfo};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Longest header that is read, in bytes. That of a vocabulary of 262,144 tokens with its merges has 15 MB.
#[cfg(not(test))]
pub const MAX_HEADER: u64 = 64 << 20;
#[cfg(test)]
pub const MAX_HEADER: u64 = 64 << 10;
/// Bytes that are read first; each further reading brings the header to four times as many.
#[cfg(not(test))]
const FIRST: u64 = 128 << 10;
#[cfg(test)]
const FIRST: u64 = 64;
/// Most keys and most tensors of a file; a model of 1,024 blocks has about 10,000 tensors.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest name of a tensor, in bytes; the format's own reader takes 63.
const MAX_NAME: u64 = 255;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Data may be aligned to at most this many bytes.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value's type; the numbers are the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64].get(number as usize).copied()
    }

    /// Bytes of one, where that is fixed.
    fn size(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::Array => None,
        }
    }
}

/// Where a value lies in the header: `count` elements of one kind, or (`count` is `None`) one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    kind: Kind,
    count: Option<u64>,
    bytes: Range<usize>,
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Whole(i128),
    Real(f64),
}

/// A parsed header; it keeps its bytes.
#[derive(Debug)]
pub struct Header {
    file: String,
    bytes: Vec<u8>,
    values: BTreeMap<String, Value>,
    /// With the offset of the first byte in the file, sorted by it; of a split file's first part those of the other parts follow.
    /// Names are the file's own.
    pub tensors: Vec<(TensorInfo, u64)>,
}

impl Header {
    /// Reads the header of a file, no further than it goes (but for the rest of the last range).
    pub async fn read<S: Source>(reader: &HeaderReader<'_, S>) -> Result<Self> {
        let FileMeta { name, size, .. } = reader.file;
        let most = MAX_HEADER.min(*size);
        let mut bytes = Vec::new();
        loop {
            let have = bytes.len() as u64;
            bytes.extend(reader.read(have..most.min(FIRST.max(4 * have))).await?);
            match parse(&bytes, *size) {
                Ok((values, tensors)) => return Ok(Self { file: name.clone(), bytes, values, tensors }),
                Err(Stop::Short) if (bytes.len() as u64) < most => {}
                Err(Stop::Short) if most == *size => return Err(Error::checkpoint(name, "the header is cut off")),
                Err(Stop::Short) => {
                    return Err(Error::checkpoint(name, format!("the header is longer than {MAX_HEADER} bytes")));
                }
                Err(Stop::Broken(problem)) => return Err(Error::checkpoint(name, problem)),
            }
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Keys that begin so, without that beginning.
    pub fn keys<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.values.range(start.to_owned()..).map_while(move |(key, _)| key.strip_prefix(start))
    }

    fn ill_typed(&self, key: &str, wanted: &str) -> Error {
        Error::checkpoint(&self.file, format!("{key} is not {wanted}"))
    }

    /// A number; an array counts as one where all its elements are the same.
    pub fn number(&self, key: &str) -> Result<Option<Number>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let mut all = self.numbers_of(value).ok_or_else(|| self.ill_typed(key, "a number"))?;
        let first = all.next().ok_or_else(|| self.ill_typed(key, "a number, but an empty list"))?;
        if all.any(|other| other != first) {
            return Err(Error::unsupported(key, "has not the same value in every block"));
        }
        Ok(Some(first))
    }

    /// A whole number, not negative.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        match self.number(key)? {
            None => Ok(None),
            Some(Number::Whole(n)) if (0..=1 << 53).contains(&n) => Ok(Some(n as u64)),
            Some(_) => Err(self.ill_typed(key, "a whole number from 0 to 2^53")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value { kind: Kind::Bool, count: None, bytes }) => Ok(Some(self.bytes[bytes.start] != 0)),
            Some(_) => Err(self.ill_typed(key, "true or false")),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value { kind: Kind::Text, count: None, bytes }) => {
                std::str::from_utf8(&self.bytes[bytes.clone()]).map(Some).map_err(|_| self.ill_typed(key, "UTF-8 text"))
            }
            Some(_) => Err(self.ill_typed(key, "a text")),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let (Kind::Text, Some(count)) = (value.kind, value.count) else {
            return Err(self.ill_typed(key, "a list of texts"));
        };
        let mut rest = &self.bytes[value.bytes.clone()];
        let mut texts = Vec::with_capacity(count as usize); // 8 bytes of the header each
        while let Some((len, more)) = rest.split_first_chunk() {
            let (text, more) = more.split_at(u64::from_le_bytes(*len) as usize);
            let text = std::str::from_utf8(text)
                .map_err(|_| Error::checkpoint(&self.file, format!("{key}: element {} is not UTF-8", texts.len())))?;
            texts.push(text);
            rest = more;
        }
        Ok(Some(texts))
    }

    pub fn numbers(&self, key: &str) -> Result<Option<impl Iterator<Item = Number>>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value) if value.count.is_some() => {
                self.numbers_of(value).map(Some).ok_or_else(|| self.ill_typed(key, "a list of numbers"))
            }
            Some(_) => Err(self.ill_typed(key, "a list of numbers")),
        }
    }

    fn numbers_of(&self, value: &Value) -> Option<impl Iterator<Item = Number>> {
        let kind = value.kind;
        let size = kind.size().filter(|_| kind != Kind::Bool)? as usize;
        Some(self.bytes[value.bytes.clone()].chunks_exact(size).map(move |bytes| {
            let mut eight = [0; 8];
            eight[..size].copy_from_slice(bytes);
            let unsigned = u64::from_le_bytes(eight);
            // The sign bit moved to the top and back.
            let signed = (unsigned << (64 - 8 * size)) as i64 >> (64 - 8 * size);
            match kind {
                Kind::F32 => Number::Real(f32::from_bits(unsigned as u32).into()),
                Kind::F64 => Number::Real(f64::from_bits(unsigned)),
                Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => Number::Whole(signed.into()),
                _ => Number::Whole(unsigned.into()),
            }
        }))
    }
}

/// Why a header could not be parsed.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// It goes on after these bytes.
    Short,
    Broken(String),
}

fn broken<T>(problem: impl Into<String>) -> Parsed<T> {
    Err(Stop::Broken(problem.into()))
}

type Parsed<T> = std::result::Result<T, Stop>;

/// The bytes that are there, of a file of `size` bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    size: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64, what: &str) -> Parsed<Range<usize>> {
        match (self.at as u64).checked_add(len) {
            Some(end) if end <= self.bytes.len() as u64 => {
                let range = self.at..end as usize;
                self.at = range.end;
                Ok(range)
            }
            Some(end) if end <= self.size.min(MAX_HEADER) => Err(Stop::Short),
            _ => broken(format!("{what}: {len} bytes reach beyond the end of the header or of the file")),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let range = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Parsed<Range<usize>> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str, most: u64) -> Parsed<&'a str> {
        let len = self.u64(what)?;
        if len > most {
            return broken(format!("{what} has {len} bytes, at most {most} are read"));
        }
        let range = self.take(len, what)?;
        std::str::from_utf8(&self.bytes[range]).map_err(|_| Stop::Broken(format!("{what} is not UTF-8")))
    }

    fn kind(&mut self, key: &str) -> Parsed<Kind> {
        let number = self.u32(key)?;
        Kind::of(number).ok_or_else(|| Stop::Broken(format!("{key}: {number} is no type of a value")))
    }

    fn value(&mut self, key: &str) -> Parsed<Value> {
        let kind = self.kind(key)?;
        if kind != Kind::Array {
            let bytes = match kind.size() {
                Some(size) => self.take(size, key)?,
                None => self.text(key)?,
            };
            self.check_bools(kind, &bytes, key)?;
            return Ok(Value { kind, count: None, bytes });
        }
        let kind = self.kind(key)?;
        let count = self.u64(key)?;
        let least = kind.size().unwrap_or(8);
        // Before anything is walked: a list that cannot be there.
        let Some(total) = count.checked_mul(least) else { return broken(format!("{key}: {count} elements")) };
        let start = self.at;
        match kind {
            Kind::Array => return broken(format!("{key}: lists of lists are not read")),
            Kind::Text => {
                if self.at as u64 + total > self.size.min(MAX_HEADER) {
                    return broken(format!("{key}: {count} texts reach beyond the end of the header or of the file"));
                }
                for _ in 0..count {
                    self.text(key)?;
                }
            }
            _ => {
                self.take(total, key)?;
            }
        }
        let bytes = start..self.at;
        self.check_bools(kind, &bytes, key)?;
        Ok(Value { kind, count: Some(count), bytes })
    }

    fn check_bools(&self, kind: Kind, bytes: &Range<usize>, key: &str) -> Parsed<()> {
        match self.bytes[bytes.clone()].iter().find(|&&byte| kind == Kind::Bool && byte > 1) {
            Some(byte) => broken(format!("{key}: {byte} is neither true nor false")),
            None => Ok(()),
        }
    }
}

type Contents = (BTreeMap<String, Value>, Vec<(TensorInfo, u64)>);

/// Parses the first bytes of a file of `size` bytes.
fn parse(bytes: &[u8], size: u64) -> Parsed<Contents> {
    let mut cursor = Cursor { bytes, at: 0, size };
    if cursor.array("magic")? != *b"GGUF" {
        return broken("not a GGUF file");
    }
    match cursor.u32("version")? {
        2 | 3 => {}
        1 => return broken("version 1 of GGUF, of August 2023, is not read: convert the model anew"),
        version if matches!(version.swap_bytes(), 1..=3) => return broken("its numbers are big-endian"),
        version => return broken(format!("version {version} of GGUF is not 2 or 3")),
    }
    let (tensors, keys) = (cursor.u64("number of tensors")?, cursor.u64("number of keys")?);
    for (count, what, least) in [(tensors, "tensors", 24), (keys, "keys", 13)] {
        if count > MAX_ENTRIES || count * least > size {
            return broken(format!("claims {count} {what}, more than the file or {MAX_ENTRIES}"));
        }
    }
    let mut values = BTreeMap::new();
    for number in 0..keys {
        let key = cursor.name(&format!("name of key {number}"), 1 << 16)?;
        let value = cursor.value(key)?;
        if values.insert(key.to_owned(), value).is_some() {
            return broken(format!("{key} is given twice"));
        }
    }
    let alignment = match values.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value { kind: Kind::U32, count: None, bytes: at }) => {
            let four = bytes[at.clone()].iter().rev();
            four.fold(0, |n, &byte| n << 8 | u64::from(byte))
        }
        Some(_) => return broken("general.alignment is not a u32"),
    };
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return broken(format!("general.alignment {alignment} is not a power of two up to {MAX_ALIGNMENT}"));
    }
    let (mut list, mut names) = (Vec::new(), HashSet::new());
    for number in 0..tensors {
        let name = cursor.name(&format!("name of tensor {number}"), MAX_NAME)?;
        if !names.insert(name) {
            return broken(format!("tensor {name} is given twice"));
        }
        list.push(tensor(&mut cursor, name)?);
    }
    let data = (cursor.at as u64).next_multiple_of(alignment);
    list.sort_by(|(a, a_at), (b, b_at)| (a_at, a.bytes(), &a.name).cmp(&(b_at, b.bytes(), &b.name)));
    let mut end = 0;
    for (info, start) in &mut list {
        let name = &info.name;
        if *start < end {
            return broken(format!("tensor {name}: overlaps the tensor before it at offset {start}"));
        }
        let expected = end.next_multiple_of(alignment);
        if *start != expected {
            return broken(format!("tensor {name}: offset {start} is not {expected}, where the tensor before it ends"));
        }
        end = *start + info.bytes();
        *start += data;
        if data + end > size {
            let problem = format!("ends at byte {} of a file of {size} bytes: it is cut off", data + end);
            return broken(format!("tensor {name}: {problem}"));
        }
    }
    Ok((values, list))
}

/// Dimensions, type and offset of a tensor. In the file the length of a row is the first dimension; here it is the last.
fn tensor(cursor: &mut Cursor, name: &str) -> Parsed<(TensorInfo, u64)> {
    let dimensions = cursor.u32(name)?;
    if !(1..=4).contains(&dimensions) {
        return broken(format!("tensor {name}: {dimensions} dimensions are not 1 to 4"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(cursor.u64(name)?);
    }
    shape.reverse();
    let number = cursor.u32(name)?;
    let Some(dtype) = dtype(number) else {
        return broken(format!("tensor {name}: type {} is not read", type_name(number)));
    };
    let offset = cursor.u64(name)?;
    if offset > 1 << 53 {
        return broken(format!("tensor {name}: offset {offset} is out of range"));
    }
    if shape.contains(&0) {
        return broken(format!("tensor {name}: shape {shape:?} is empty"));
    }
    let (block, _) = dtype.block();
    if shape.last().is_none_or(|columns| !columns.is_multiple_of(block)) {
        return broken(format!("tensor {name}: rows of shape {shape:?} are not whole blocks of {block}"));
    }
    match TensorInfo::checked(name.to_owned(), dtype, &shape) {
        Some(info) => Ok((info, offset)),
        None => broken(format!("tensor {name}: shape {shape:?} overflows")),
    }
}

/// `enum ggml_type`.
pub fn dtype(number: u32) -> Option<Dtype> {
    Some(match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        6 => Dtype::Q5_0,
        7 => Dtype::Q5_1,
        8 => Dtype::Q8_0,
        12 => Dtype::Q4K,
        13 => Dtype::Q5K,
        14 => Dtype::Q6K,
        20 => Dtype::Iq4Nl,
        30 => Dtype::Bf16,
        _ => return None,
    })
}

/// Names of the types that exist and are not read.
fn type_name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "of whole numbers",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return number.to_string(),
    };
    name.to_owned()
}
