//! What is stored of a model: its record, and the pieces that it consists of.

use super::digest::Digest;
use super::plan::Plan;
use super::source::Store;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

pub(super) const RECORD_VERSION: u32 = 2;

/// What the store knows of a model: enough to load it with no network at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    pub commit: Option<String>,
    pub plan: Plan,
    /// Whether each tensor of the plan is needed.
    pub wanted: Vec<bool>,
    /// Key and size of each file beside the weights that was asked for; `None` where there is no such file.
    pub files: BTreeMap<String, Option<(String, u64)>>,
    /// SHA-256 of each piece, by key, as they were when the model was complete.
    pub digests: BTreeMap<String, Digest>,
    /// [`Digest::of_blocks`] of each piece, by key: what a later reading of the stored piece is compared with.
    #[serde(default)]
    pub blocks: BTreeMap<String, Digest>,
    /// Every needed piece was stored and every whole-file hash was right.
    pub complete: bool,
    /// Milliseconds since 1970-01-01 UTC.
    pub last_used: f64,
}

impl Record {
    /// SHA-256 of the JSON, then the JSON: what it says of the weights is as trustworthy as they are.
    pub fn to_text(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(Error::internal)?;
        Ok(format!("{}{json}", Digest::of(json.as_bytes())))
    }

    /// `None` for what was damaged, or another version of this package, or nobody, wrote: such a model is planned anew.
    pub fn parse(text: &str) -> Option<Self> {
        let (digest, json) = text.split_at_checked(64)?;
        if Digest::parse(digest)? != Digest::of(json.as_bytes()) {
            return None;
        }
        let record: Self = serde_json::from_str(json).ok()?;
        (record.version == RECORD_VERSION && record.wanted.len() == record.plan.tensors.len()).then_some(record)
    }

    /// Key and length of everything that belongs to the model.
    pub fn parts(&self, id: &str) -> Vec<(String, u64)> {
        let pieces = pieces(id, &self.plan, &self.wanted).into_iter().map(|p| (p.key.clone(), p.len()));
        pieces.chain(self.files.values().flatten().cloned()).collect()
    }
}

/// The unit of download, verification and storage.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Index into [`Plan::files`].
    pub file: usize,
    pub range: Range<u64>,
    /// Identity of the content: its hash, or else the version of the file that it is a range of.
    pub key: String,
    pub sha256: Option<Digest>,
    /// [`Digest::of_blocks`], of one that was stored before.
    pub blocks: Option<Digest>,
}

impl Piece {
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The pieces that hold bytes of wanted tensors, or those that told where the tensors are. A file with a hash of its whole and none of its pieces is
/// needed wholly: nothing less can be verified.
pub(super) fn pieces(id: &str, plan: &Plan, wanted: &[bool]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (index, file) in plan.files.iter().enumerate() {
        let tensors = || plan.tensors.iter().zip(wanted).filter(|(t, wanted)| t.file == index && **wanted);
        if tensors().next().is_none() {
            continue;
        }
        let wholly = file.sha256.is_some() && file.piece_sha256(0).is_none();
        let checks = || plan.checks.iter().filter(|c| c.file == index);
        for (n, range) in file.ranges().enumerate() {
            let holds = |start, end| start < range.end && end > range.start;
            let needed = tensors().any(|(t, _)| holds(t.start, t.end())) || checks().any(|c| holds(c.start, c.end));
            if !wholly && !needed {
                continue;
            }
            let sha256 = file.piece_sha256(n);
            let Range { start, end } = range;
            let key = match (sha256, file.sha256) {
                (Some(piece), _) => format!("sha256:{piece}"),
                (None, Some(whole)) => format!("sha256:{whole}:{start}-{end}"),
                (None, None) => {
                    let version = file.version.as_deref().unwrap_or_default();
                    format!("{id}|{}|{version}|{}|{start}-{end}", file.name, file.size)
                }
            };
            pieces.push(Piece { file: index, range, key, sha256, blocks: None });
        }
    }
    pieces
}

/// Deletes the pieces that no record needs.
pub(super) async fn collect<T: Store>(store: &T) -> Result<usize> {
    store
        .collect(&|records| {
            let mut used = HashSet::new();
            for (id, record) in records {
                if let Some(record) = Record::parse(record) {
                    used.extend(record.parts(id.trim_end_matches(NEXT)).into_iter().map(|(key, _)| key));
                }
            }
            used
        })
        .await
}

/// Marks the record of a new version of a model while the old version is still the complete one.
pub(super) const NEXT: &str = "#next";

pub(super) fn next(id: &str) -> String {
    format!("{id}{NEXT}")
}

/// Held shared by whoever uses a model, exclusively by whoever deletes it.
pub(super) fn use_lock(id: &str) -> String {
    format!("mobilellm use {id}")
}
