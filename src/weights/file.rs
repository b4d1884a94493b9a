//! A file of a checkpoint before it is read, and the pieces that it comes in.

use super::digest::Digest;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Longest piece, in bytes: the unit of download, verification and storage.
#[cfg(not(test))]
pub const PIECE: u64 = 4 << 20;
/// Small, so that tests of many pieces are fast.
#[cfg(test)]
pub const PIECE: u64 = 4 << 10;
/// What is known of a file before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// ETag, modification time or the like: another value means other bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Of each piece, for a file of more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<Digest>,
}

impl FileMeta {
    pub fn new(name: &str, size: u64) -> Self {
        Self { name: name.into(), size, version: None, sha256: None, pieces: Vec::new() }
    }

    /// Byte ranges of the file's pieces.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let size = self.size;
        (0..size.div_ceil(PIECE)).map(move |n| n * PIECE..size.min((n + 1) * PIECE))
    }

    /// SHA-256 that piece `n` must have, where that is known beforehand.
    pub fn piece_sha256(&self, n: usize) -> Option<Digest> {
        if self.size <= PIECE { self.sha256 } else { self.pieces.get(n).copied() }
    }
}
