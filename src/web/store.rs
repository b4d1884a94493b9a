//! The browser's [`Store`]: pieces and records in IndexedDB, locks between tabs by Web Locks.
//!
//! Raw `web_sys` rather than a crate: there are nine verbs, each one transaction whose requests are all issued before the first
//! await (so that it cannot commit early, whatever wakes the future). Transactions are of relaxed durability: they do
//! not wait for the disk. What a power cut takes away is noticed, by its key or its hash, and fetched again.

use super::bytes::JsBytes;
use super::host::{WebHost, message};
use super::js::Js;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::weights::digest::{BLOCK, Digest};
use crate::weights::source::{InUse, LockMode};
use crate::weights::{Host, Store, Stored};
use futures_util::future::{Either, select};
use js_sys::{Array, ArrayBuffer, Function, Object, Promise, Reflect, Uint8Array};
use std::cell::{Cell, OnceCell, RefCell};
use std::pin::pin;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, DomException, IdbDatabase, IdbFactory, IdbObjectStore, IdbRequest, IdbTransaction, StorageEstimate,
    StorageManager,
};

/// Name of the database. Its version is that of the schema: see [`upgrade`].
const DATABASE: &str = "mobilellm";
const SCHEMA: u32 = 2;
/// Key -> `{ sha256, bytes }`. The bytes are a `Blob`: Chromium reads it at 1.5 GB/s where a typed array comes at 0.65 (240 MB in
/// pieces of 16 MiB, with SHA-256 730 against 400 MB/s; 2 cores, Chromium 156).
const PIECES: &str = "pieces";
/// Model -> JSON.
const RECORDS: &str = "records";
/// What a self-check depends on -> its outcome. Since schema 2.
const VERDICTS: &str = "verdicts";

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(thread_local_v2, js_name = navigator)]
    static NAVIGATOR: Option<Navigator>;

    type Navigator;
    #[wasm_bindgen(method, getter)]
    fn locks(this: &Navigator) -> Option<LockManager>;
    #[wasm_bindgen(method, getter)]
    fn storage(this: &Navigator) -> Option<StorageManager>;

    type LockManager;
    #[wasm_bindgen(method, catch)]
    fn request(this: &LockManager, name: &str, options: &Object, callback: &JsValue) -> Js<Promise>;

    #[wasm_bindgen(extends = IdbDatabase)]
    type Database;
    #[wasm_bindgen(method, catch, js_name = transaction)]
    fn begin(this: &Database, stores: &Array, mode: &str, options: &Object) -> Js<IdbTransaction>;

    /// `PieceReader` of `js/pieces.ts`: reads and hashes in a worker of its own.
    pub type PieceReader;
    /// A promise of [`FoundPiece`], or of null.
    #[wasm_bindgen(method)]
    fn read(this: &PieceReader, database: &str, store: &str, key: &str, block: usize) -> Promise;
    /// Begins to read what will be asked for.
    #[wasm_bindgen(method)]
    fn expect(this: &PieceReader, database: &str, store: &str, key: &str, block: usize);

    /// `FoundPiece` of `js/pieces.ts`.
    type FoundPiece;
    #[wasm_bindgen(method, getter)]
    fn bytes(this: &FoundPiece) -> ArrayBuffer;
    #[wasm_bindgen(method, getter)]
    fn sha256(this: &FoundPiece) -> String;
    /// The digests of its blocks, one behind the other.
    #[wasm_bindgen(method, getter)]
    fn digests(this: &FoundPiece) -> Vec<u8>;
}

/// Milliseconds in which IndexedDB must answer. It does not always: seen in WebKit after it wakes, and where another tab's connection
/// does not close.
const OPENING: f64 = 4_000.0;
/// The same for one transaction, which may write a piece to a slow disk while others do.
const WORKING: f64 = 30_000.0;

/// Opened at the first use; where that is forbidden every verb says so.
#[derive(Default)]
pub struct IdbStore {
    database: OnceCell<Database>,
    /// Why there is none: it is not tried again.
    failed: RefCell<Option<Error>>,
    /// The browser does not store Blobs (WebKit in private windows): pieces are stored as ArrayBuffers.
    no_blobs: Cell<bool>,
    /// One was read back.
    blobs_work: Cell<bool>,
    /// Where there is none, or it fails, pieces are read and hashed here.
    reader: Option<PieceReader>,
}

/// A Web Lock; where there are none, nothing.
pub struct WebLock(Option<Function>);

impl Drop for WebLock {
    fn drop(&mut self) {
        if let Some(release) = &self.0 {
            let _ = release.call0(&JsValue::NULL);
        }
    }
}

impl IdbStore {
    pub fn new(reader: Option<PieceReader>) -> Self {
        Self { reader, ..Self::default() }
    }

    async fn database(&self) -> Result<&Database> {
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        if let Some(error) = &*self.failed.borrow() {
            return Err(error.clone());
        }
        match in_time(OPENING, open()).await {
            Ok(database) => Ok(self.database.get_or_init(|| database)),
            Err(error) => {
                *self.failed.borrow_mut() = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Begins a transaction over `stores`, of which the first is returned.
    async fn begin(&self, stores: &[&str], mode: &str) -> Result<(IdbTransaction, Vec<IdbObjectStore>)> {
        let names = stores.iter().map(|s| JsValue::from_str(s)).collect::<Array>();
        let options = object(&[("durability", "relaxed".into())]);
        let transaction = self.database().await?.begin(&names, mode, &options).map_err(failed)?;
        let stores = stores.iter().map(|s| transaction.object_store(s)).collect::<Js<_>>();
        Ok((transaction, stores.map_err(failed)?))
    }

    /// Writes a piece, whose bytes are a Blob or an ArrayBuffer.
    async fn put(&self, key: &str, bytes: JsValue, sha256: Digest) -> Result<()> {
        let piece = object(&[("sha256", sha256.to_string().into()), ("bytes", bytes)]);
        self.write(PIECES, |store| store.put_with_key(&piece, &key.into()).map(drop)).await
    }

    /// Whether a piece of `len` bytes can be read back.
    async fn kept(&self, key: &str, len: usize) -> bool {
        let Ok(found) = self.read_one(PIECES, key).await else { return false };
        let Ok(blob) = Reflect::get(&found, &"bytes".into()).and_then(|bytes| bytes.dyn_into::<Blob>()) else {
            return false;
        };
        let bytes = in_time(WORKING, async { JsFuture::from(blob.array_buffer()).await.map_err(failed) }).await;
        bytes.is_ok_and(|bytes| Uint8Array::new(&bytes).length() as usize == len)
    }

    async fn read_one(&self, store: &str, key: &str) -> Result<JsValue> {
        let (_transaction, stores) = self.begin(&[store], "readonly").await?;
        value(&stores[0].get(&key.into()).map_err(failed)?).await
    }

    /// Runs `requests` on one store and waits until the transaction is done.
    async fn write(&self, store: &str, requests: impl FnOnce(&IdbObjectStore) -> Js<()>) -> Result<()> {
        let (transaction, stores) = self.begin(&[store], "readwrite").await?;
        let done = Promise::new(&mut |resolve, reject| {
            transaction.set_oncomplete(Some(&resolve));
            transaction.set_onerror(Some(&reject));
            transaction.set_onabort(Some(&reject));
        });
        requests(&stores[0]).map_err(failed)?;
        in_time(WORKING, async {
            match JsFuture::from(done).await {
                Ok(_) => Ok(()),
                Err(_) => {
                    Err(transaction.error().map_or_else(|| storage("a transaction was aborted"), |e| failed(e.into())))
                }
            }
        })
        .await
    }
}

/// The property itself throws where the site may store nothing (Firefox with its data blocked, a frame without an origin).
fn factory() -> Result<IdbFactory> {
    let found = Reflect::get(&js_sys::global(), &"indexedDB".into()).map_err(failed)?;
    found.dyn_into().map_err(|_| storage("there is no IndexedDB here"))
}

async fn open() -> Result<Database> {
    let request = factory()?.open_with_u32(DATABASE, SCHEMA).map_err(failed)?;
    let upgrading = Closure::once_into_js({
        let request = request.clone();
        move |event: web_sys::IdbVersionChangeEvent| upgrade(&request, event.old_version() as u32)
    });
    request.set_onupgradeneeded(Some(upgrading.unchecked_ref()));
    let blocked = Promise::new(&mut |_, reject| request.set_onblocked(Some(&reject)));
    let opened = Promise::race(&Array::of2(&finished(&request), &blocked));
    JsFuture::from(opened).await.map_err(|_| match request.error() {
        Ok(Some(error)) => storage(&error.message()),
        _ => storage("another tab holds an older version of the database: close it"),
    })?;
    let database: Database = request.result().map_err(failed)?.unchecked_into();
    // A newer version of this package, in another tab, wants to upgrade: make way.
    let close = Closure::<dyn Fn()>::new({
        let database = database.clone().unchecked_into::<IdbDatabase>();
        move || database.close()
    });
    database.set_onversionchange(Some(close.into_js_value().unchecked_ref()));
    Ok(database)
}

async fn in_time<T>(milliseconds: f64, work: impl Future<Output = Result<T>>) -> Result<T> {
    match select(pin!(work), pin!(WebHost.sleep(milliseconds))).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(storage(&format!("IndexedDB did not answer for {} seconds", milliseconds / 1e3))),
    }
}

/// Brings the database from schema `old` (0: there is none) to [`SCHEMA`].
fn upgrade(request: &web_sys::IdbOpenDbRequest, old: u32) {
    if let Ok(database) = request.result() {
        let database: IdbDatabase = database.unchecked_into();
        for (since, store) in [(1, PIECES), (1, RECORDS), (2, VERDICTS)] {
            if old < since {
                // What this throws aborts the upgrade, which then fails the request.
                let _ = database.create_object_store(store);
            }
        }
    }
}

impl Store for IdbStore {
    type Bytes = JsBytes;
    type Lock = WebLock;

    async fn piece(&self, key: &str, hashed: bool) -> Result<Option<Stored<JsBytes>>> {
        if let Some(reader) = &self.reader
            && let Ok(found) = JsFuture::from(reader.read(DATABASE, PIECES, key, block(hashed))).await
        {
            return Ok(if found.is_null() { None } else { stored(&found.unchecked_into(), hashed) });
        }
        let found = self.read_one(PIECES, key).await?;
        if found.is_undefined() {
            return Ok(None);
        }
        let field = |name: &str| Reflect::get(&found, &name.into()).ok();
        let bytes = field("bytes").unwrap_or_default();
        let sha256 = field("sha256").and_then(|s| s.as_string()).and_then(|s| Digest::parse(&s));
        // What nobody wrote in this form, or what lost its file, is as good as missing: it is fetched and written anew.
        let Some(sha256) = sha256 else { return Ok(None) };
        let buffer = match bytes.dyn_into::<Blob>() {
            Ok(blob) => JsFuture::from(blob.array_buffer()).await.ok(),
            Err(other) => other.is_instance_of::<ArrayBuffer>().then_some(other),
        };
        let Some(buffer) = buffer else { return Ok(None) };
        let bytes = JsBytes(Uint8Array::new(&buffer));
        let blocks = if hashed { Some(WebHost.sha256_of_blocks(&bytes).await?) } else { None };
        Ok(Some(Stored { bytes, sha256, blocks }))
    }

    fn expect(&self, keys: &[String], hashed: bool) {
        if let Some(reader) = &self.reader {
            keys.iter().for_each(|key| reader.expect(DATABASE, PIECES, key, block(hashed)));
        }
    }

    async fn present(&self, keys: &[String]) -> Result<Vec<bool>> {
        let (_transaction, stores) = self.begin(&[PIECES], "readonly").await?;
        let all = strings(&value(&stores[0].get_all_keys().map_err(failed)?).await?);
        let all: std::collections::HashSet<_> = all.into_iter().collect();
        Ok(keys.iter().map(|key| all.contains(key)).collect())
    }

    async fn put_piece(&self, key: &str, bytes: &JsBytes, sha256: Digest) -> Result<()> {
        let mut written = Err(storage("not yet written"));
        if !self.no_blobs.get() {
            let blob = Blob::new_with_u8_array_sequence(&Array::of1(&bytes.0)).map_err(failed)?;
            written = self.put(key, blob.into(), sha256).await;
            if written.is_ok() && !self.blobs_work.get() {
                // Each of those that are written side by side, until one was found to be there.
                match self.kept(key, bytes.len()).await {
                    true => self.blobs_work.set(true),
                    false => written = Err(storage("a Blob was stored without its bytes")),
                }
            }
        }
        if matches!(written, Err(Error::Storage { .. })) {
            // A copy of just these bytes: the array may be a part of a larger buffer.
            written = self.put(key, bytes.0.slice(0, bytes.0.length()).buffer().into(), sha256).await;
            if written.is_ok() {
                self.no_blobs.set(true);
            }
        }
        match written {
            Err(Error::Quota { .. }) => {
                let needed = bytes.len() as u64;
                Err(Error::Quota { needed, free: self.free().await.filter(|free| *free < needed) })
            }
            other => other,
        }
    }

    async fn delete_pieces(&self, keys: &[String]) -> Result<()> {
        self.write(PIECES, |store| keys.iter().try_for_each(|key| store.delete(&key.into()).map(drop))).await
    }

    async fn records(&self) -> Result<Vec<(String, String)>> {
        let (_transaction, stores) = self.begin(&[RECORDS], "readonly").await?;
        let keys = stores[0].get_all_keys().map_err(failed)?;
        let records = stores[0].get_all().map_err(failed)?;
        let (keys, records) = futures_util::future::join(value(&keys), value(&records)).await;
        Ok(strings(&keys?).into_iter().zip(strings(&records?)).collect())
    }

    async fn record(&self, model: &str) -> Result<Option<String>> {
        Ok(self.read_one(RECORDS, model).await?.as_string())
    }

    async fn put_record(&self, model: &str, record: &str) -> Result<()> {
        self.write(RECORDS, |store| store.put_with_key(&record.into(), &model.into()).map(drop)).await
    }

    async fn delete_record(&self, model: &str) -> Result<()> {
        self.write(RECORDS, |store| store.delete(&model.into()).map(drop)).await
    }

    async fn collect(&self, used: InUse<'_>) -> Result<usize> {
        let (_transaction, stores) = self.begin(&[PIECES, RECORDS], "readonly").await?;
        let pieces = stores[0].get_all_keys().map_err(failed)?;
        let models = stores[1].get_all_keys().map_err(failed)?;
        let records = stores[1].get_all().map_err(failed)?;
        let (pieces, models, records) =
            futures_util::future::join3(value(&pieces), value(&models), value(&records)).await;
        let records: Vec<_> = strings(&models?).into_iter().zip(strings(&records?)).collect();
        let used = used(&records);
        let unused: Vec<_> = strings(&pieces?).into_iter().filter(|key| !used.contains(key)).collect();
        if !unused.is_empty() {
            self.delete_pieces(&unused).await?;
        }
        Ok(unused.len())
    }

    async fn free(&self) -> Option<u64> {
        let estimate = storage_manager()?.estimate().ok()?;
        let estimate: StorageEstimate = JsFuture::from(estimate).await.ok()?.unchecked_into();
        let free = estimate.get_quota()? - estimate.get_usage().unwrap_or(0.0);
        Some(free.max(0.0) as u64)
    }

    async fn persisted(&self) -> bool {
        let Some(Ok(promise)) = storage_manager().map(|manager| manager.persisted()) else { return false };
        JsFuture::from(promise).await.is_ok_and(|granted| granted.is_truthy())
    }

    async fn verdict(&self, key: &str) -> Result<Option<String>> {
        Ok(self.read_one(VERDICTS, key).await?.as_string())
    }

    async fn put_verdict(&self, key: &str, verdict: &str) -> Result<()> {
        self.write(VERDICTS, |store| store.put_with_key(&verdict.into(), &key.into()).map(drop)).await
    }

    async fn lock(&self, name: &str, mode: LockMode, wait: bool) -> Result<Option<WebLock>> {
        let Some(manager) = NAVIGATOR.with(|n| n.as_ref().and_then(Navigator::locks)) else {
            return Ok(Some(WebLock(None)));
        };
        // The browser holds the lock until `held` is settled; if this future is dropped while it waits, that is at once.
        let mut lock = WebLock(None);
        let held = Promise::new(&mut |resolve, _| lock.0 = Some(resolve));
        let mut grant = None;
        let granted = Promise::new(&mut |resolve, _| grant = Some(resolve));
        let callback = Closure::once_into_js(move |found: JsValue| {
            if let Some(grant) = grant {
                let _ = grant.call1(&JsValue::NULL, &(!found.is_null()).into());
            }
            held
        });
        let mode = if mode == LockMode::Shared { "shared" } else { "exclusive" };
        let options = object(&[("mode", mode.into()), ("ifAvailable", (!wait).into())]);
        let request = manager.request(name, &options, &callback).map_err(failed)?;
        // The request itself only settles first if it fails.
        let granted = JsFuture::from(Promise::race(&Array::of2(&granted, &request))).await.map_err(failed)?;
        Ok(granted.is_truthy().then_some(lock))
    }
}

/// Bytes of a block that a [`PieceReader`] is to hash.
fn block(hashed: bool) -> usize {
    if hashed { BLOCK } else { 0 }
}

/// `None` for what nobody wrote in this form.
fn stored(found: &FoundPiece, hashed: bool) -> Option<Stored<JsBytes>> {
    let sha256 = Digest::parse(&found.sha256())?;
    let digests: Vec<_> = found.digests().as_chunks().0.iter().copied().map(Digest).collect();
    let bytes = JsBytes(Uint8Array::new(&found.bytes()));
    Some(Stored { bytes, sha256, blocks: hashed.then(|| Digest::joined(&digests)) })
}

fn storage_manager() -> Option<StorageManager> {
    NAVIGATOR.with(|n| n.as_ref().and_then(Navigator::storage))
}

/// Settles with the request's event.
fn finished(request: &IdbRequest) -> Promise {
    Promise::new(&mut |resolve, reject| {
        request.set_onsuccess(Some(&resolve));
        request.set_onerror(Some(&reject));
    })
}

/// The result of a request whose handlers are set before this is first awaited.
fn value(request: &IdbRequest) -> impl Future<Output = Result<JsValue>> {
    let (done, request) = (finished(request), request.clone());
    in_time(WORKING, async move {
        match JsFuture::from(done).await {
            Ok(_) => request.result().map_err(failed),
            Err(_) => {
                Err(request.error().ok().flatten().map_or_else(|| storage("a request failed"), |e| failed(e.into())))
            }
        }
    })
}

fn strings(array: &JsValue) -> Vec<String> {
    // A record or key that is no text was not written by this package: its place is kept, its content is not.
    array.dyn_ref::<Array>().map_or_else(Vec::new, |a| a.iter().map(|s| s.as_string().unwrap_or_default()).collect())
}

fn object(fields: &[(&str, JsValue)]) -> Object {
    let object = Object::new();
    for (name, value) in fields {
        let _ = Reflect::set(&object, &(*name).into(), value);
    }
    object
}

fn storage(problem: &str) -> Error {
    Error::Storage { problem: problem.into() }
}

fn failed(error: JsValue) -> Error {
    match error.dyn_ref::<DomException>() {
        Some(e) if e.name() == "QuotaExceededError" => Error::Quota { needed: 0, free: None },
        Some(e) => storage(&format!("{}: {}", e.name(), e.message())),
        None => storage(&message(&error)),
    }
}
