//! What a load tells while it runs.

use super::record::Piece;
use super::source::Host;
use crate::error::Error;
use serde::Serialize;
use std::cell::Cell;

/// Least milliseconds between two progress events of one phase. Together with the changes of phase, which are told at once,
/// no second has more than twenty.
const PROGRESS_INTERVAL: f64 = 100.0;

/// The first thing that a load has not finished. Pieces pass through download, verification, store and upload side by side, so
/// that each of these phases but the longest only shows for the last pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Finding out what there is and what is missing.
    Check,
    /// Pieces come from the source (and, in between, from the store).
    Download,
    /// Every byte is here: hashes are computed and compared.
    Verify,
    /// Every piece is sound: they are being written to the store.
    Store,
    /// Every piece is stored, as far as it is kept: the last are on their way into the backend.
    Upload,
    /// The backend has all weights and prepares what it computes with.
    Compile,
    /// The backend's results are compared with known ones.
    SelfCheck,
}

/// How far a load is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of the model that are loaded, from network and storage together.
    pub loaded_bytes: u64,
    /// Bytes of the whole model; 0 while not yet known.
    pub total_bytes: u64,
    /// Of `loadedBytes`, those that came from storage.
    pub cached_bytes: u64,
    /// Over the last seconds; 0 while not yet known.
    pub bytes_per_second: f64,
    /// Seconds until every byte has arrived; null while not yet known.
    pub eta_seconds: Option<f64>,
    /// The file at hand; empty between files.
    pub file: String,
}

/// What a load tells while it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "LoadEvent"))]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    Progress(Progress),
    /// Another tab is downloading this model: waiting for it.
    Waiting,
    /// The browser threw away pieces of a model that had been stored completely; they are fetched again.
    Evicted {
        pieces: usize,
        of: usize,
        bytes: u64,
    },
    /// A stored piece was not what had been stored; it is fetched again.
    Repaired {
        file: String,
        piece: String,
    },
    /// Tensors of the checkpoint, by name, that the model has no use for.
    Skipped {
        tensors: Vec<String>,
    },
    /// The storage failed: pieces are streamed from the source from here on and not kept.
    StorageFailed {
        #[cfg_attr(test, ts(type = "ErrorCode"))]
        code: String,
        message: String,
    },
}

impl Event {
    pub(super) fn storage_failed(error: &Error) -> Self {
        Event::StorageFailed { code: error.code().into(), message: error.to_string() }
    }
}

/// Counts bytes and pieces and reports them: at each change of phase, else at most every [`PROGRESS_INTERVAL`].
pub(super) struct Meter<'a, H> {
    host: &'a H,
    tell: &'a dyn Fn(Progress),
    pub total: u64,
    pub cached: Cell<u64>,
    downloaded: Cell<i64>,
    /// How many pieces there are, and how many have come through each stage.
    pieces: usize,
    pub arrived: Cell<usize>,
    pub verified: Cell<usize>,
    pub stored: Cell<usize>,
    pub taken: Cell<usize>,
    /// What the load is at until every piece has arrived.
    until_arrived: Cell<Phase>,
    last: Cell<(f64, Phase)>,
    /// Time and loaded bytes of a moment one to three seconds ago, and of a newer one.
    window: Cell<[(f64, i64); 2]>,
}

impl<'a, H: Host> Meter<'a, H> {
    pub fn new(host: &'a H, tell: &'a dyn Fn(Progress), pieces: &[Piece]) -> Self {
        let start = (host.now(), 0);
        Self {
            host,
            tell,
            total: pieces.iter().map(Piece::len).sum(),
            cached: Cell::new(0),
            downloaded: Cell::new(0),
            pieces: pieces.len(),
            arrived: Cell::new(0),
            verified: Cell::new(0),
            stored: Cell::new(0),
            taken: Cell::new(0),
            until_arrived: Cell::new(Phase::Check),
            last: Cell::new((f64::NEG_INFINITY, Phase::Check)),
            window: Cell::new([start; 2]),
        }
    }

    /// What is missing is known: pieces begin to arrive.
    pub fn begin(&self, download: bool) {
        self.until_arrived.set(if download { Phase::Download } else { Phase::Verify });
        self.emit("", false);
    }

    pub fn phase(&self) -> Phase {
        match self.until_arrived.get() {
            Phase::Check => Phase::Check,
            first if self.arrived.get() < self.pieces => first,
            _ if self.verified.get() < self.pieces => Phase::Verify,
            _ if self.stored.get() < self.pieces => Phase::Store,
            _ => Phase::Upload,
        }
    }

    pub fn cached(&self, bytes: u64) {
        self.cached.set(self.cached.get() + bytes);
    }

    pub fn bytes(&self, change: i64) {
        self.downloaded.set(self.downloaded.get() + change);
    }

    /// One more piece came through these stages.
    pub fn passed(&self, stages: &[&Cell<usize>]) {
        stages.iter().for_each(|stage| stage.set(stage.get() + 1));
        if self.phase() != self.last.get().1 {
            self.emit("", false);
        }
    }

    pub fn downloaded(&self) -> u64 {
        self.downloaded.get().max(0) as u64
    }

    pub fn emit(&self, file: &str, always: bool) {
        let (now, phase) = (self.host.now(), self.phase());
        let (last, told) = self.last.get();
        if !always && phase == told && now - last < PROGRESS_INTERVAL {
            return;
        }
        self.last.set((now, phase));
        let loaded_bytes = self.cached.get() + self.downloaded();
        let [mut old, mut new] = self.window.get();
        if now - new.0 > 1500.0 {
            (old, new) = (new, (now, loaded_bytes as i64));
            self.window.set([old, new]);
        }
        let seconds = (now - old.0) / 1e3;
        let speed = if seconds > 0.0 { (loaded_bytes as i64 - old.1).max(0) as f64 / seconds } else { 0.0 };
        (self.tell)(Progress {
            phase,
            loaded_bytes,
            total_bytes: self.total,
            cached_bytes: self.cached.get(),
            bytes_per_second: speed,
            eta_seconds: (speed > 0.0).then(|| self.total.saturating_sub(loaded_bytes) as f64 / speed),
            file: file.into(),
        });
    }
}
