//! The zip archive around a checkpoint: where its records lie. Only what torch.save writes: one volume, nothing compressed.

use std::collections::BTreeMap;
use std::ops::Range;

/// Longest directory, in bytes; that of the 1.5B model has 50 KB.
const MAX_DIRECTORY: u64 = 4 << 20;
/// End-of-directory record with the longest comment.
pub const MAX_END: u64 = 22 + 65535;

/// What is wrong, for an error that names the file.
type Problem<T> = std::result::Result<T, String>;

// The first bytes of each record.
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const END_OF_DIRECTORY: &[u8] = b"PK\x05\x06";
const ZIP64_LOCATOR: &[u8] = b"PK\x06\x07";
const ZIP64_END_OF_DIRECTORY: &[u8] = b"PK\x06\x06";
/// Extra field of an entry with numbers that do not fit into 32 bits.
const ZIP64_FIELD: u64 = 1;
const STORED: u64 = 0;
const ENCRYPTED: u64 = 1;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Problem<u64> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end)).ok_or("the zip directory is cut off")?;
    Ok(part.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// Range of the directory, or the offset of the zip64 record that tells it.
pub fn end_of_directory(tail: &[u8], file_size: u64) -> Problem<(Range<u64>, Option<u64>)> {
    let at = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|&at| {
            tail[at..].starts_with(END_OF_DIRECTORY)
                && number::<2>(tail, at + 20).is_ok_and(|n| at + 22 + n as usize == tail.len())
        })
        .ok_or("not a zip archive (checkpoints from before PyTorch 1.6 are not supported)")?;
    if !matches!(number::<2>(tail, at + 4)?, 0 | 0xffff) {
        return Err("a zip archive of several volumes".into());
    }
    let (size, start) = (number::<4>(tail, at + 12)?, number::<4>(tail, at + 16)?);
    if let Some(locator) = at.checked_sub(20)
        && tail[locator..].starts_with(ZIP64_LOCATOR)
    {
        let offset = number::<8>(tail, locator + 8)?;
        if offset.checked_add(56).is_none_or(|end| end > file_size) {
            return Err("the zip64 record lies beyond the end of the file".into());
        }
        return Ok((0..0, Some(offset)));
    }
    directory_range(start, size, file_size).map(|range| (range, None))
}

pub fn zip64_directory(record: &[u8], file_size: u64) -> Problem<Range<u64>> {
    if !record.starts_with(ZIP64_END_OF_DIRECTORY) {
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
pub struct Entry {
    /// Offset of its local header.
    pub header: u64,
    pub size: u64,
}

pub fn read_directory(bytes: &[u8]) -> Problem<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at..].starts_with(DIRECTORY_ENTRY) {
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
            if id == ZIP64_FIELD {
                // Zip64: those of the three that do not fit into 32 bits, in this order.
                let big = [&mut size, &mut packed, &mut header].into_iter().filter(|n| **n == u64::from(u32::MAX));
                for (n, value) in big.enumerate() {
                    *value = number::<8>(field, n * 8)?;
                }
            }
            extra = &extra[4 + len..];
        }
        if method != STORED || packed != size {
            return Err(format!("record {name} is compressed; torch.save stores records plainly"));
        }
        if flags & ENCRYPTED != 0 {
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
pub fn local_header(bytes: &[u8], entry: &str) -> Problem<u64> {
    let named = number::<2>(bytes, 26)? as usize == entry.len() && bytes.get(30..) == Some(entry.as_bytes());
    if !bytes.starts_with(LOCAL_HEADER) || !named {
        return Err(format!("record {entry}: its local header contradicts the directory"));
    }
    Ok(30 + entry.len() as u64 + number::<2>(bytes, 28)?)
}
