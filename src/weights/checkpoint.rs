//! The policy: each piece of a plan comes from the store if it is there and sound, else from the source;
//! it is verified, stored, handed to the sink in plan order and dropped.

use super::TensorSink;
use super::plan::{Digest, FileMeta, Plan};
use super::source::{Host, LockMode, Source, Store, Stored};
use crate::bytes::{Buffer, Bytes};
use crate::error::{Error, Result};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Pieces fetched at a time; with the one that the sink reads from, no more than these are held.
const PARALLEL: usize = 4;
/// Times that a piece is fetched whose bytes turn out wrong.
const BAD_PIECE_ATTEMPTS: usize = 4;
/// Longest file beside the weights, in bytes (tokenizer.json of a 256k vocabulary: 34 MB).
const MAX_SMALL: u64 = 64 << 20;
/// Least milliseconds between two progress events of one phase. Together with the changes of phase, which are told at once,
/// no second has more than twenty.
const PROGRESS_INTERVAL: f64 = 100.0;
const RECORD_VERSION: u32 = 2;

/// Stops a load at its next await, or at once if it is waiting. Clones share the flag.
#[derive(Clone, Default)]
pub struct Abort(Rc<(Cell<bool>, RefCell<Vec<Waker>>)>);

impl Abort {
    pub fn abort(&self) {
        self.0.0.set(true);
        self.0.1.take().into_iter().for_each(Waker::wake);
    }

    /// Runs `work`, or drops it and returns [`Error::Aborted`] as soon as the flag is raised.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.0.0.get() {
                return Poll::Ready(Err(Error::Aborted));
            }
            let mut wakers = self.0.1.borrow_mut();
            if !wakers.iter().any(|w| w.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            drop(wakers);
            work.as_mut().poll(context)
        })
        .await
    }
}

/// When the SHA-256 of a stored piece is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Before it is stored and each time it is read.
    #[default]
    Always,
    /// Before it is stored.
    First,
}

#[derive(Clone, Default)]
pub struct Options {
    pub verify: Verify,
    pub abort: Abort,
    /// Ask the source whether the model changed, even if a complete copy is stored.
    pub refresh: bool,
}

/// The first thing that a load has not finished. Pieces pass through download, verification, store and upload side by side, so
/// that each of these phases but the longest only shows for the last pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub phase: Phase,
    /// Bytes that have arrived, from wherever.
    pub loaded_bytes: u64,
    /// Bytes that the model needs.
    pub total_bytes: u64,
    /// Those of the arrived bytes that came from the store.
    pub cached_bytes: u64,
    /// Of the last seconds.
    pub bytes_per_second: f64,
    /// Until every byte has arrived; unknown at first.
    pub eta_seconds: Option<f64>,
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// The storage failed: pieces are streamed from the source from here on and not kept.
    StorageFailed {
        code: String,
        message: String,
    },
}

/// What a finished load did, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub total_bytes: u64,
    pub cached_bytes: u64,
    pub downloaded_bytes: u64,
    /// Every piece is in the store.
    pub stored: bool,
    /// The browser promised not to evict it.
    pub persisted: bool,
}

/// What a load will cost, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    pub total_bytes: u64,
    /// Those that are not stored.
    pub missing_bytes: u64,
    /// Free storage, where the browser tells.
    pub free_bytes: Option<u64>,
}

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

/// A piece's verified bytes.
struct Arrived<'p, B> {
    piece: &'p Piece,
    bytes: B,
    sha256: Digest,
    blocks: Option<Digest>,
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

/// An opened model: its plan is known, its small files can be read, its weights loaded.
/// While it lives, the stored copy cannot be deleted.
pub struct Checkpoint<H: Host, S, T: Store> {
    host: H,
    source: S,
    store: T,
    options: Options,
    on_event: Box<dyn Fn(Event)>,
    id: String,
    record: RefCell<Record>,
    /// The copy that `record` replaces is complete and stays until `record` is.
    replaces: bool,
    /// The store failed, or the source needs none.
    bypass: Cell<bool>,
    in_use: Option<T::Lock>,
    /// Small files without a published hash: stored when the model that they belong to is complete.
    unproven: RefCell<Vec<(String, H::Bytes, Digest)>>,
    /// What was told last.
    progress: RefCell<Option<Progress>>,
}

impl<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>> Checkpoint<H, S, T> {
    /// Plans the model: from the store, with no network, if a complete copy is there; else from the source.
    pub async fn open(
        host: H,
        source: S,
        store: T,
        options: Options,
        on_event: impl Fn(Event) + 'static,
    ) -> Result<Self> {
        let abort = options.abort.clone();
        abort.guard(Self::open_inner(host, source, store, options, Box::new(on_event))).await
    }

    async fn open_inner(host: H, source: S, store: T, options: Options, on_event: Box<dyn Fn(Event)>) -> Result<Self> {
        let id = source.id();
        let bypass = Cell::new(!source.remote());
        let fail = |error: Error| {
            if !bypass.replace(true) {
                on_event(storage_failed(&error));
            }
        };
        let mut in_use = None;
        let mut old = None;
        if !bypass.get() {
            match store.lock(&use_lock(&id), LockMode::Shared, true).await {
                Ok(lock) => in_use = lock,
                Err(error) => fail(error),
            }
            match store.record(&id).await {
                Ok(text) => old = text.as_deref().and_then(Record::parse),
                Err(error) => fail(error),
            }
        }
        if let Some(record) = &old
            && !options.refresh
        {
            if let Some(commit) = &record.commit {
                source.pin(commit);
            }
            if record.complete {
                let pieces = pieces(&id, &record.plan, &record.wanted);
                let keys: Vec<_> = pieces.iter().map(|p| p.key.clone()).collect();
                let present = store.present(&keys).await.unwrap_or_else(|e| {
                    fail(e);
                    vec![false; keys.len()]
                });
                let gone = pieces.iter().zip(&present).filter(|(_, present)| !**present);
                let (count, bytes) = gone.fold((0, 0), |(n, bytes), (p, _)| (n + 1, bytes + p.len()));
                if count == 0 {
                    let record = RefCell::new(record.clone());
                    let progress = RefCell::default();
                    return Ok(Self {
                        host,
                        source,
                        store,
                        options,
                        on_event,
                        id,
                        record,
                        replaces: false,
                        bypass,
                        in_use,
                        unproven: RefCell::default(),
                        progress,
                    });
                }
                on_event(Event::Evicted { pieces: count, of: pieces.len(), bytes });
            }
        }
        let plan = Plan::of(&source).await?;
        let record = match &old {
            Some(old) if old.plan == plan => old.clone(),
            _ => Record {
                version: RECORD_VERSION,
                commit: source.commit(),
                wanted: vec![true; plan.tensors.len()],
                plan,
                files: BTreeMap::new(),
                digests: BTreeMap::new(),
                blocks: BTreeMap::new(),
                complete: false,
                last_used: host.wall_clock(),
            },
        };
        let replaces = old.is_some_and(|old| old.complete && old.plan != record.plan);
        let record = RefCell::new(record);
        let progress = RefCell::default();
        let unproven = RefCell::default();
        Ok(Self { host, source, store, options, on_event, id, record, replaces, bypass, in_use, unproven, progress })
    }

    /// What is left to hold while the model is in use: until it is dropped, the stored copy cannot be deleted.
    pub fn into_lease(self) -> Option<T::Lock> {
        self.in_use
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Tells that the load has come to `phase`: for the phases after [`load`](Self::load), which are the engine's.
    pub fn enter(&self, phase: Phase) {
        let last = self.progress.borrow().clone();
        if let Some(last) = last {
            self.tell(Progress { phase, eta_seconds: None, file: String::new(), ..last });
        }
    }

    fn tell(&self, progress: Progress) {
        *self.progress.borrow_mut() = Some(progress.clone());
        (self.on_event)(Event::Progress(progress));
    }

    pub fn store(&self) -> &T {
        &self.store
    }

    pub fn source(&self) -> &S {
        &self.source
    }

    /// A copy of the plan.
    pub fn plan(&self) -> Plan {
        self.record.borrow().plan.clone()
    }

    /// What a load needs, before its first weight byte. Counts every tensor until a load has told which are wanted.
    pub async fn sizes(&self) -> Sizes {
        let pieces = {
            let record = self.record.borrow();
            pieces(&self.id, &record.plan, &record.wanted)
        };
        Sizes {
            total_bytes: pieces.iter().map(Piece::len).sum(),
            missing_bytes: self.missing(&pieces).await,
            free_bytes: self.store.free().await,
        }
    }

    /// A file beside the weights, whole; `None` if there is no such file.
    pub async fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.options.abort.guard(self.file_inner(name)).await
    }

    /// A file that a load can do without: no failure if it cannot be read, and for a model that is stored completely the
    /// network is not asked for it.
    pub async fn optional_file(&self, name: &str) -> Option<Vec<u8>> {
        let skip = {
            let record = self.record.borrow();
            record.complete && !record.files.contains_key(name)
        };
        if skip { None } else { self.file(name).await.ok().flatten() }
    }

    async fn file_inner(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let expected = self.record.borrow().plan.others.iter().find(|f| f.name == name).and_then(|f| f.sha256);
        let known = self.record.borrow().files.get(name).cloned();
        // Until a model is complete, nothing shows that a stored file without a published hash is any good.
        let complete = self.record.borrow().complete;
        match known {
            Some(None) if complete => return Ok(None),
            Some(Some((key, _))) if complete || expected.is_some() => {
                if let Some(Stored { bytes, .. }) = self.stored(&key, None, name, "the whole file").await? {
                    return Ok(Some(bytes.to_vec()));
                }
            }
            _ => {}
        }
        let mut attempt = 0;
        let (bytes, got) = loop {
            let Some(bytes) = self.source.read_all(name, MAX_SMALL).await? else {
                self.record.borrow_mut().files.insert(name.into(), None);
                return Ok(None);
            };
            let got = self.host.sha256(&bytes).await?;
            match expected {
                Some(expected) if got != expected => {
                    attempt += 1;
                    if attempt == BAD_PIECE_ATTEMPTS {
                        return Err(integrity(name, "the whole file", expected, got));
                    }
                }
                _ => break (bytes, got),
            }
        };
        let key = format!("sha256:{got}");
        let mut files = self.record.borrow().files.clone();
        files.insert(name.into(), Some((key.clone(), bytes.len() as u64)));
        self.record.borrow_mut().files = files;
        let copy = bytes.to_vec();
        if complete || expected.is_some() {
            self.put_record().await;
            self.put(&key, &bytes, got).await;
        } else if !self.bypass.get() {
            self.unproven.borrow_mut().push((key, bytes, got));
        }
        Ok(Some(copy))
    }

    /// Tells a store that has everything that the weights will be loaded next, whatever is done before that.
    pub fn expect_load(&self) {
        let record = self.record.borrow();
        if record.complete && !self.bypass.get() {
            let first = pieces(&self.id, &record.plan, &record.wanted).into_iter().take(PARALLEL);
            let keys: Vec<_> = first.map(|piece| piece.key).collect();
            self.store.expect(&keys, self.options.verify == Verify::Always);
        }
    }

    /// Feeds `sink` with the wanted tensors. On success the model is complete in the store (unless that failed).
    pub async fn load(&self, sink: &mut dyn TensorSink) -> Result<Report> {
        self.options.abort.guard(self.load_inner(sink)).await
    }

    async fn load_inner(&self, sink: &mut dyn TensorSink) -> Result<Report> {
        if let Some(report) = self.pass(sink, false).await? {
            return Ok(report);
        }
        // The plan itself may come from the damaged bytes.
        self.source.forget();
        let plan = Plan::of(&self.source).await?;
        {
            let mut record = self.record.borrow_mut();
            record.wanted = vec![true; plan.tensors.len()];
            record.plan = plan;
            record.complete = false;
        }
        self.pass(sink, true).await?.ok_or_else(|| Error::internal("the last pass asks for another"))
    }

    /// Feeds the sink once. `None` if a file whose pieces have no hashes of their own turned out damaged: its pieces are
    /// thrown away and everything is to start over. The `last` pass fails instead.
    async fn pass(&self, sink: &mut dyn TensorSink, last: bool) -> Result<Option<Report>> {
        let plan = self.plan();
        let wanted = sink.begin(&plan.infos())?;
        if wanted.len() != plan.tensors.len() {
            return Err(Error::internal("the sink did not answer for every tensor"));
        }
        let mut pieces = pieces(&self.id, &plan, &wanted);
        {
            let mut record = self.record.borrow_mut();
            for piece in &mut pieces {
                piece.sha256 = piece.sha256.or_else(|| record.digests.get(&piece.key).copied());
                piece.blocks = record.blocks.get(&piece.key).copied();
            }
            record.complete &= record.wanted == wanted;
            record.wanted.clone_from(&wanted);
            record.last_used = self.host.wall_clock();
        }
        let tell = |progress: Progress| self.tell(progress);
        let progress = Meter::new(&self.host, &tell, &pieces);
        progress.emit("", true);

        let mut missing = self.missing(&pieces).await;
        let mut download_lock = None;
        if missing > 0 && !self.bypass.get() {
            let name = format!("mobilellm download {}", self.id);
            download_lock = self.lock(&name, false).await;
            if download_lock.is_none() && !self.bypass.get() {
                (self.on_event)(Event::Waiting);
                download_lock = self.lock(&name, true).await;
                missing = self.missing(&pieces).await;
            }
        }
        if missing > 0 && !self.bypass.get() {
            if let Some(free) = self.store.free().await
                && free < missing
            {
                return Err(Error::Quota { needed: missing, free: Some(free) });
            }
            self.put_record().await;
        }
        progress.begin(missing > 0 || self.bypass.get());

        let parallel = if plan.files.iter().all(|f| self.source.ranged(f)) { PARALLEL } else { 1 };
        let mut whole = WholeFile::default();
        let mut checks = Checks(plan.checks.iter().map(|_| sha2::Sha256::new()).collect());
        let (mut digests, mut blocks) = (BTreeMap::new(), BTreeMap::new());
        let mut arriving =
            stream::iter(&pieces).map(|piece| self.piece(piece, &plan.files[piece.file], &progress)).buffered(parallel);
        while let Some(bytes) = arriving.next().await {
            let Arrived { piece, bytes, sha256, blocks: of_blocks } = bytes?;
            digests.insert(piece.key.clone(), sha256);
            blocks.extend(of_blocks.map(|digest| (piece.key.clone(), digest)));
            let file = &plan.files[piece.file];
            let sound = match whole.pass(piece, file, &bytes) {
                Ok(()) => checks.pass(&plan, piece, &bytes),
                damaged => damaged,
            };
            if let Err(damaged) = sound {
                let keys: Vec<_> = pieces.iter().filter(|p| p.file == piece.file).map(|p| p.key.clone()).collect();
                if !self.bypass.get()
                    && let Err(error) = self.store.delete_pieces(&keys).await
                {
                    self.storage_failed(&error);
                }
                if last {
                    return Err(damaged);
                }
                (self.on_event)(Event::Repaired { file: file.name.clone(), piece: "the whole file".into() });
                return Ok(None);
            }
            for (number, tensor) in plan.tensors.iter().enumerate() {
                let (start, end) = (tensor.start.max(piece.range.start), tensor.end().min(piece.range.end));
                if wanted[number] && tensor.file == piece.file && start < end {
                    let within = Window {
                        bytes: &bytes,
                        start: (start - piece.range.start) as usize,
                        len: (end - start) as usize,
                    };
                    sink.write(number, start - tensor.start, &within)?;
                }
            }
            bytes.release();
            progress.passed(&[&progress.taken]);
        }
        drop(arriving);
        progress.emit("", true);
        {
            let mut record = self.record.borrow_mut();
            (record.digests, record.blocks) = (digests, blocks);
        }
        let persisted = self.finish(progress.downloaded() > 0).await;
        drop(download_lock);
        Ok(Some(Report {
            total_bytes: progress.total,
            cached_bytes: progress.cached.get(),
            downloaded_bytes: progress.downloaded(),
            stored: !self.bypass.get(),
            persisted,
        }))
    }

    /// Bytes of the pieces that are not in the store.
    async fn missing(&self, pieces: &[Piece]) -> u64 {
        let keys: Vec<_> = pieces.iter().map(|p| p.key.clone()).collect();
        let present = if self.bypass.get() { Ok(Vec::new()) } else { self.store.present(&keys).await };
        let present = present.unwrap_or_else(|e| {
            self.storage_failed(&e);
            Vec::new()
        });
        pieces.iter().enumerate().filter(|(n, _)| present.get(*n) != Some(&true)).map(|(_, p)| p.len()).sum()
    }

    async fn lock(&self, name: &str, wait: bool) -> Option<T::Lock> {
        self.store.lock(name, LockMode::Exclusive, wait).await.unwrap_or_else(|e| {
            self.storage_failed(&e);
            None
        })
    }

    /// One piece: stored and sound, or fetched, verified and stored.
    async fn piece<'p>(
        &self,
        piece: &'p Piece,
        file: &FileMeta,
        progress: &Meter<'_, H>,
    ) -> Result<Arrived<'p, H::Bytes>> {
        let Range { start, end } = piece.range;
        let label = format!("bytes {start}-{end}");
        if let Some(Stored { bytes, sha256, blocks }) = self.stored(&piece.key, Some(piece), &file.name, &label).await?
        {
            let blocks = blocks.or(piece.blocks);
            progress.cached(piece.len());
            progress.passed(&[&progress.arrived, &progress.verified, &progress.stored]);
            progress.emit(&file.name, false);
            return Ok(Arrived { piece, bytes, sha256, blocks });
        }
        let mut attempt = 0;
        loop {
            let so_far = Cell::new(0);
            let arrived = |n: u64| {
                progress.bytes(n as i64 - so_far.replace(n) as i64);
                progress.emit(&file.name, false);
            };
            let bytes = self.source.read(file, piece.range.clone(), attempt, &arrived).await?;
            arrived(piece.len());
            progress.passed(&[&progress.arrived]);
            let got = self.host.sha256(&bytes).await?;
            match piece.sha256 {
                Some(expected) if expected != got => {
                    bytes.release();
                    progress.arrived.update(|n| n - 1);
                    arrived(0);
                    attempt += 1;
                    if attempt == BAD_PIECE_ATTEMPTS {
                        return Err(integrity(&file.name, &label, expected, got));
                    }
                }
                _ => {
                    progress.passed(&[&progress.verified]);
                    let blocks = if self.bypass.get() { None } else { Some(self.host.sha256_of_blocks(&bytes).await?) };
                    self.put(&piece.key, &bytes, got).await;
                    progress.passed(&[&progress.stored]);
                    return Ok(Arrived { piece, bytes, sha256: got, blocks });
                }
            }
        }
    }

    /// A stored piece, if it is there and sound; `known`: what it must be.
    async fn stored(
        &self,
        key: &str,
        known: Option<&Piece>,
        file: &str,
        label: &str,
    ) -> Result<Option<Stored<H::Bytes>>> {
        if self.bypass.get() {
            return Ok(None);
        }
        let always = self.options.verify == Verify::Always;
        let found = match self.store.piece(key, always && known.is_some()).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.storage_failed(&error);
                return Ok(None);
            }
        };
        let expected = known.and_then(|piece| piece.sha256).unwrap_or(found.sha256);
        let intact = async || match known.and_then(|piece| piece.blocks) {
            Some(blocks) => Ok::<_, Error>(found.blocks == Some(blocks)),
            None => Ok(self.host.sha256(&found.bytes).await? == expected),
        };
        let sound = known.is_none_or(|piece| piece.len() == found.bytes.len() as u64)
            && found.sha256 == expected
            && (!always || intact().await?);
        if sound {
            return Ok(Some(found));
        }
        (self.on_event)(Event::Repaired { file: file.into(), piece: label.into() });
        if let Err(error) = self.store.delete_pieces(&[key.into()]).await {
            self.storage_failed(&error);
        }
        Ok(None)
    }

    async fn put(&self, key: &str, bytes: &H::Bytes, sha256: Digest) {
        if !self.bypass.get()
            && let Err(error) = self.store.put_piece(key, bytes, sha256).await
        {
            self.storage_failed(&error);
        }
    }

    async fn put_record(&self) {
        if self.bypass.get() {
            return;
        }
        let key = if self.replaces && !self.record.borrow().complete { next(&self.id) } else { self.id.clone() };
        let text = self.record.borrow().to_text();
        let written = match text {
            Ok(text) => self.store.put_record(&key, &text).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.storage_failed(&error);
        }
    }

    /// Records the model as complete and collects what no model uses any more. True if the storage is spared from eviction.
    async fn finish(&self, fetched: bool) -> bool {
        if self.bypass.get() {
            return false;
        }
        let unproven = self.unproven.take();
        for (key, bytes, sha256) in &unproven {
            self.put(key, bytes, *sha256).await;
        }
        self.record.borrow_mut().complete = true;
        self.put_record().await;
        let persisted = self.store.persisted().await;
        if fetched {
            let tidied = match self.store.delete_record(&next(&self.id)).await {
                Ok(()) => collect(&self.store).await,
                Err(error) => Err(error),
            };
            if let Err(error) = tidied {
                self.storage_failed(&error);
            }
        }
        persisted
    }

    fn storage_failed(&self, error: &Error) {
        if !self.bypass.replace(true) {
            (self.on_event)(storage_failed(error));
        }
    }
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

fn storage_failed(error: &Error) -> Event {
    Event::StorageFailed { code: error.code().into(), message: error.to_string() }
}

fn integrity(file: &str, piece: &str, expected: Digest, got: Digest) -> Error {
    Error::Integrity { file: file.into(), piece: piece.into(), expected: expected.to_string(), got: got.to_string() }
}

/// Part of a piece.
struct Window<'a, B> {
    bytes: &'a B,
    start: usize,
    len: usize,
}

impl<B: Bytes> Bytes for Window<'_, B> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        debug_assert!(offset + out.len() <= self.len);
        self.bytes.read(self.start + offset, out);
    }

    #[cfg(feature = "gpu")]
    fn upload(&self, range: Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        self.bytes.upload(self.start + range.start..self.start + range.end, queue, buffer, at);
    }
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

/// Counts bytes and pieces and reports them: at each change of phase, else at most every [`PROGRESS_INTERVAL`].
struct Meter<'a, H> {
    host: &'a H,
    tell: &'a dyn Fn(Progress),
    total: u64,
    cached: Cell<u64>,
    downloaded: Cell<i64>,
    /// How many pieces there are, and how many have come through each stage.
    pieces: usize,
    arrived: Cell<usize>,
    verified: Cell<usize>,
    stored: Cell<usize>,
    taken: Cell<usize>,
    /// What the load is at until every piece has arrived.
    until_arrived: Cell<Phase>,
    last: Cell<(f64, Phase)>,
    /// Time and loaded bytes of a moment one to three seconds ago, and of a newer one.
    window: Cell<[(f64, i64); 2]>,
}

impl<'a, H: Host> Meter<'a, H> {
    fn new(host: &'a H, tell: &'a dyn Fn(Progress), pieces: &[Piece]) -> Self {
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
    fn begin(&self, download: bool) {
        self.until_arrived.set(if download { Phase::Download } else { Phase::Verify });
        self.emit("", false);
    }

    fn phase(&self) -> Phase {
        match self.until_arrived.get() {
            Phase::Check => Phase::Check,
            first if self.arrived.get() < self.pieces => first,
            _ if self.verified.get() < self.pieces => Phase::Verify,
            _ if self.stored.get() < self.pieces => Phase::Store,
            _ => Phase::Upload,
        }
    }

    fn cached(&self, bytes: u64) {
        self.cached.set(self.cached.get() + bytes);
    }

    fn bytes(&self, change: i64) {
        self.downloaded.set(self.downloaded.get() + change);
    }

    /// One more piece came through these stages.
    fn passed(&self, stages: &[&Cell<usize>]) {
        stages.iter().for_each(|stage| stage.set(stage.get() + 1));
        if self.phase() != self.last.get().1 {
            self.emit("", false);
        }
    }

    fn downloaded(&self) -> u64 {
        self.downloaded.get().max(0) as u64
    }

    fn emit(&self, file: &str, always: bool) {
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
