//! The part of a weight file that tells where its tensors lie.

use super::digest::Digest;
use super::file::FileMeta;
use super::source::Source;
use crate::bytes::Buffer;
use crate::error::Result;
use std::cell::RefCell;
use std::ops::Range;

/// Reads ranges of a weight file and remembers what it read.
pub struct HeaderReader<'a, S> {
    source: &'a S,
    pub file: &'a FileMeta,
    read: RefCell<Vec<(Range<u64>, Digest)>>,
}

impl<'a, S: Source> HeaderReader<'a, S> {
    pub fn new(source: &'a S, file: &'a FileMeta) -> Self {
        HeaderReader { source, file, read: RefCell::default() }
    }

    /// What was read, with its hash, by offset.
    pub fn into_read(self) -> Vec<(Range<u64>, Digest)> {
        let mut read = self.read.into_inner();
        read.sort_by_key(|(range, _)| (range.start, range.end));
        read
    }

    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.source.read(self.file, range.clone(), 0, &|_| {}).await?.to_vec();
        self.read.borrow_mut().push((range, Digest::of(&bytes)));
        Ok(bytes)
    }
}
