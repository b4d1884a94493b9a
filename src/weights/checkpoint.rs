//! The policy: each piece of a plan comes from the store if it is there and sound, else from the source;
//! it is verified, stored, handed to the sink in plan order and dropped.

use super::TensorSink;
use super::abort::Abort;
use super::digest::Digest;
use super::file::FileMeta;
use super::formats::gguf;
use super::http::SESSION;
use super::plan::Plan;
use super::progress::{Event, Meter, Phase, Progress};
use super::record::{Piece, RECORD_VERSION, Record, collect, next, pieces, use_lock};
use super::source::{Host, LockMode, Source, Store, Stored};
use super::verify::{Verifier, Verify, integrity};
use crate::bytes::{Buffer, Bytes};
use crate::error::{Error, Result};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Pieces fetched at a time; with the one that the sink reads from, no more than these are held.
const PARALLEL: usize = 4;
/// Times that a piece is fetched whose bytes turn out wrong.
const BAD_PIECE_ATTEMPTS: usize = 4;
/// Longest file beside the weights, in bytes (tokenizer.json of a 256k vocabulary: 34 MB).
const MAX_SMALL: u64 = 64 << 20;
#[derive(Clone, Default)]
pub struct Options {
    pub verify: Verify,
    pub abort: Abort,
    /// Ask the source whether the model changed, even if a complete copy is stored.
    pub refresh: bool,
}

/// What a finished load did, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "LoadReport"))]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub total_bytes: u64,
    pub cached_bytes: u64,
    pub downloaded_bytes: u64,
    /// Whether every piece is in storage now.
    pub stored: bool,
    /// Whether the browser promised to spare it from eviction.
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

/// A piece's verified bytes.
struct Arrived<'p, B> {
    piece: &'p Piece,
    bytes: B,
    sha256: Digest,
    blocks: Option<Digest>,
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
    /// Of a GGUF, once it was read.
    header: RefCell<Option<Rc<gguf::Header>>>,
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
                on_event(Event::storage_failed(&error));
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
                        header: RefCell::default(),
                    });
                }
                on_event(Event::Evicted { pieces: count, of: pieces.len(), bytes });
            }
        }
        let (plan, header) = Plan::read(&source).await?;
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
        let header = RefCell::new(header.map(Rc::new));
        Ok(Self {
            host,
            source,
            store,
            options,
            on_event,
            id,
            record,
            replaces,
            bypass,
            in_use,
            unproven,
            progress,
            header,
        })
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

    /// Warns of tensors that the model has no use for, if there are any.
    pub fn skipped(&self, tensors: &[String]) {
        if !tensors.is_empty() {
            (self.on_event)(Event::Skipped { tensors: tensors.to_vec() });
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

    /// A file that is here, or that costs nothing to look for; no failure if it cannot be read.
    pub async fn near_file(&self, name: &str) -> Option<Vec<u8>> {
        let known = {
            let record = self.record.borrow();
            record.complete && record.files.contains_key(name)
        };
        if known || self.source.local() { self.file(name).await.ok().flatten() } else { None }
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
            let Some(bytes) = self.small_file(name).await? else {
                self.record.borrow_mut().files.insert(name.into(), None);
                if complete {
                    self.put_record().await;
                }
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

    /// A file beside the weights as it is in the source; of a GGUF, as its header gives it.
    async fn small_file(&self, name: &str) -> Result<Option<H::Bytes>> {
        if self.source.gguf().is_none() {
            return self.source.read_all(name, MAX_SMALL).await;
        }
        let known = self.header.borrow().clone();
        let header = match known {
            Some(header) => header,
            None => {
                let (_, header) = Plan::read(&self.source).await?;
                let header = Rc::new(header.ok_or_else(|| Error::internal("a GGUF without a header"))?);
                *self.header.borrow_mut() = Some(header.clone());
                header
            }
        };
        let file = header.small_file(name)?;
        let no_memory = || Error::checkpoint(name, "no memory for it");
        file.map(|file| H::Bytes::from_slice(&file).ok_or_else(no_memory)).transpose()
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
        let (plan, header) = Plan::read(&self.source).await?;
        *self.header.borrow_mut() = header.map(Rc::new);
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
        let mut plan = self.plan();
        let wanted = sink.begin(&plan.infos())?;
        if wanted.len() != plan.tensors.len() {
            return Err(Error::internal("the sink did not answer for every tensor"));
        }
        let mut pieces = self.wanted_pieces(&plan, &wanted);
        let tell = |progress: Progress| self.tell(progress);
        let progress = Meter::new(&self.host, &tell, &pieces);
        progress.emit("", true);
        let (missing, download_lock) = self.prepare_download(&pieces).await?;
        if missing == 0 {
            // Perhaps those of another tab.
            plan = self.plan();
            pieces = self.wanted_pieces(&plan, &wanted);
        }
        progress.begin(missing > 0 || self.bypass.get());
        if !self.feed(sink, &plan, &wanted, &pieces, &progress, last).await? {
            return Ok(None);
        }
        progress.emit("", true);
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

    /// Takes over what another tab stored while this one waited for it. Where the host gives no version to tell by, each session has
    /// its own name for the same bytes; those were fetched a moment ago.
    async fn adopt(&self) -> bool {
        let Ok(Some(text)) = self.store.record(&self.id).await else { return false };
        let Some(theirs) = Record::parse(&text) else { return false };
        let same = {
            let ours = self.record.borrow();
            theirs.complete && theirs.wanted == ours.wanted && unversioned(&theirs.plan) == unversioned(&ours.plan)
        };
        if !same || self.missing(&pieces(&self.id, &theirs.plan, &theirs.wanted)).await > 0 {
            return false;
        }
        *self.record.borrow_mut() = theirs;
        true
    }

    /// The pieces of the wanted tensors, with what the record knows of them; the record is told what is wanted.
    fn wanted_pieces(&self, plan: &Plan, wanted: &[bool]) -> Vec<Piece> {
        let mut pieces = pieces(&self.id, plan, wanted);
        let mut record = self.record.borrow_mut();
        for piece in &mut pieces {
            piece.sha256 = piece.sha256.or_else(|| record.digests.get(&piece.key).copied());
            piece.blocks = record.blocks.get(&piece.key).copied();
        }
        record.complete &= record.wanted == wanted;
        record.wanted = wanted.to_vec();
        record.last_used = self.host.wall_clock();
        pieces
    }

    /// Waits until no other tab downloads this model, and sees that there is room for what is missing: its bytes.
    async fn prepare_download(&self, pieces: &[Piece]) -> Result<(u64, Option<T::Lock>)> {
        let mut missing = self.missing(pieces).await;
        let mut lock = None;
        if missing > 0 && !self.bypass.get() {
            let name = format!("mobilellm download {}", self.id);
            lock = self.lock(&name, false).await;
            if lock.is_none() && !self.bypass.get() {
                (self.on_event)(Event::Waiting);
                lock = self.lock(&name, true).await;
                missing = if self.adopt().await { 0 } else { self.missing(pieces).await };
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
        Ok((missing, lock))
    }

    /// Hands every piece to the sink, in order, and keeps the hashes of all. False if a file turned out damaged, whose pieces
    /// are thrown away then.
    async fn feed(
        &self,
        sink: &mut dyn TensorSink,
        plan: &Plan,
        wanted: &[bool],
        pieces: &[Piece],
        progress: &Meter<'_, H>,
        last: bool,
    ) -> Result<bool> {
        let parallel = if plan.files.iter().all(|f| self.source.ranged(f)) { PARALLEL } else { 1 };
        let mut verifier = Verifier::new(plan);
        let (mut digests, mut blocks) = (BTreeMap::new(), BTreeMap::new());
        let mut arriving =
            stream::iter(pieces).map(|piece| self.piece(piece, &plan.files[piece.file], progress)).buffered(parallel);
        while let Some(arrived) = arriving.next().await {
            let Arrived { piece, bytes, sha256, blocks: of_blocks } = arrived?;
            digests.insert(piece.key.clone(), sha256);
            blocks.extend(of_blocks.map(|digest| (piece.key.clone(), digest)));
            if let Err(damaged) = verifier.pass(plan, piece, &bytes) {
                self.throw_away(pieces.iter().filter(|p| p.file == piece.file)).await;
                if last {
                    return Err(damaged);
                }
                let file = plan.files[piece.file].name.clone();
                (self.on_event)(Event::Repaired { file, piece: "the whole file".into() });
                return Ok(false);
            }
            hand_over(sink, plan, wanted, piece, &bytes)?;
            bytes.release();
            progress.passed(&[&progress.taken]);
        }
        let mut record = self.record.borrow_mut();
        (record.digests, record.blocks) = (digests, blocks);
        Ok(true)
    }

    async fn throw_away(&self, pieces: impl Iterator<Item = &Piece>) {
        let keys: Vec<_> = pieces.map(|p| p.key.clone()).collect();
        if !self.bypass.get()
            && let Err(error) = self.store.delete_pieces(&keys).await
        {
            self.storage_failed(&error);
        }
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
            if self.source.remote() {
                self.drop_empty_record().await;
            }
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

    /// After storage failed: a record of which not one piece could be stored would be listed as a model of no bytes.
    async fn drop_empty_record(&self) {
        let Ok(Some(text)) = self.store.record(&self.id).await else { return };
        let Some(record) = Record::parse(&text) else { return };
        let keys: Vec<_> = record.parts(&self.id).into_iter().map(|(key, _)| key).collect();
        if self.store.present(&keys).await.is_ok_and(|present| !present.contains(&true)) {
            // That it fails too changes nothing.
            let _ = self.store.delete_record(&self.id).await;
        }
    }

    fn storage_failed(&self, error: &Error) {
        if !self.bypass.replace(true) {
            (self.on_event)(Event::storage_failed(error));
        }
    }
}

/// A plan without the versions that a host did not give.
fn unversioned(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for file in &mut plan.files {
        file.version.take_if(|version| version.starts_with(SESSION));
    }
    plan
}

/// The bytes of each wanted tensor that the piece holds.
fn hand_over(sink: &mut dyn TensorSink, plan: &Plan, wanted: &[bool], piece: &Piece, bytes: &impl Bytes) -> Result<()> {
    for (number, tensor) in plan.tensors.iter().enumerate() {
        let (start, end) = (tensor.start.max(piece.range.start), tensor.end().min(piece.range.end));
        if wanted[number] && tensor.file == piece.file && start < end {
            let within = Window { bytes, start: (start - piece.range.start) as usize, len: (end - start) as usize };
            sink.write(number, start - tensor.start, &within)?;
        }
    }
    Ok(())
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
