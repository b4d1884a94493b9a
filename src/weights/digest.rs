//! SHA-256 as a value.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A SHA-256, in hexadecimal wherever it is text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// [`Digest::of_blocks`] from the digests of the blocks.
    pub fn joined(blocks: &[Digest]) -> Self {
        Self::of(&blocks.iter().flat_map(|block| block.0).collect::<Vec<u8>>())
    }

    /// SHA-256 of the SHA-256, one behind the other, of each [`BLOCK`] (the last may be shorter). As good as that of all the bytes
    /// to see whether they are still the same, and in browsers, which copy what they hash, twice as fast (bench/README.md).
    pub fn of_blocks(bytes: &[u8]) -> Self {
        Self::joined(&bytes.chunks(BLOCK).map(Self::of).collect::<Vec<_>>())
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// Bytes of a block of [`Digest::of_blocks`].
pub const BLOCK: usize = 1 << 19;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not a SHA-256"))
    }
}
