//! Whether bytes are what they should be.

use super::digest::Digest;
use super::file::FileMeta;
use super::plan::Plan;
use super::record::Piece;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use serde::Deserialize;
use sha2::Digest as _;
use std::ops::Range;

/// When the SHA-256 of a stored piece is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Before it is stored and each time it is read.
    #[default]
    Always,
    /// Before it is stored.
    First,
}

/// What only shows when several pieces have passed by, in order: the hash of a whole file, and the bytes that the plan was
/// read from.
pub(super) struct Verifier {
    whole: WholeFile,
    checks: Checks,
}

impl Verifier {
    pub fn new(plan: &Plan) -> Self {
        Verifier {
            whole: WholeFile::default(),
            checks: Checks(plan.checks.iter().map(|_| sha2::Sha256::new()).collect()),
        }
    }

    /// # Errors
    /// [`Error::Integrity`] if the file that this piece belongs to turns out damaged.
    pub fn pass(&mut self, plan: &Plan, piece: &Piece, bytes: &impl Bytes) -> Result<()> {
        self.whole.pass(piece, &plan.files[piece.file], bytes)?;
        self.checks.pass(plan, piece, bytes)
    }
}

pub(super) fn integrity(file: &str, piece: &str, expected: Digest, got: Digest) -> Error {
    Error::Integrity { file: file.into(), piece: piece.into(), expected: expected.to_string(), got: got.to_string() }
}

/// Compares the bytes that the plan was read from with those of the pieces, as these pass by in order.
struct Checks(Vec<sha2::Sha256>);

impl Checks {
    fn pass(&mut self, plan: &Plan, piece: &Piece, bytes: &impl Bytes) -> Result<()> {
        for (check, hasher) in plan.checks.iter().zip(&mut self.0) {
            let (start, end) = (check.start.max(piece.range.start), check.end.min(piece.range.end));
            if check.file != piece.file || start >= end {
                continue;
            }
            hash(hasher, bytes, (start - piece.range.start) as usize..(end - piece.range.start) as usize);
            if end == check.end {
                let got = Digest(hasher.finalize_reset().into());
                if got != check.sha256 {
                    let label = format!("header at bytes {}-{}", check.start, check.end);
                    return Err(integrity(&plan.files[check.file].name, &label, check.sha256, got));
                }
            }
        }
        Ok(())
    }
}

/// Hashes through a small block: the bytes may lie outside wasm memory.
fn hash(hasher: &mut sha2::Sha256, bytes: &impl Bytes, range: Range<usize>) {
    let mut block = vec![0; range.len().min(1 << 16)];
    for at in range.clone().step_by(1 << 16) {
        let n = block.len().min(range.end - at);
        bytes.read(at, &mut block[..n]);
        hasher.update(&block[..n]);
    }
}

/// SHA-256 of a file whose pieces pass by in order.
#[derive(Default)]
struct WholeFile(sha2::Sha256);

impl WholeFile {
    /// Fails when the last piece has passed and the hash of all is not the file's.
    fn pass(&mut self, piece: &Piece, file: &FileMeta, bytes: &impl Bytes) -> Result<()> {
        let Some(expected) = file.sha256.filter(|_| piece.sha256.is_none()) else { return Ok(()) };
        hash(&mut self.0, bytes, 0..bytes.len());
        if piece.range.end < file.size {
            return Ok(());
        }
        let got = Digest(self.0.finalize_reset().into());
        if got == expected { Ok(()) } else { Err(integrity(&file.name, "the whole file", expected, got)) }
    }
}
