//! In-memory twins of the browser: a clock that jumps, a server and a store that fail on schedule.

use super::digest::Digest;
use super::http::{Body, Head, Http, Request, Unsent};
use super::source::{Host, InUse, LockMode, Store, Stored};
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Virtual time: it jumps to the next timer when nothing else can go on.
#[derive(Clone, Default)]
pub struct Clock(Rc<ClockState>);

#[derive(Default)]
struct ClockState {
    now: Cell<f64>,
    next: Cell<u64>,
    timers: RefCell<BTreeMap<u64, (f64, Waker)>>,
    random: RefCell<Option<fastrand::Rng>>,
}

impl Clock {
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(flag.clone());
        let mut work = pin!(work);
        loop {
            while flag.0.swap(false, Ordering::SeqCst) {
                if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return done;
                }
            }
            let mut timers = self.0.timers.borrow_mut();
            let first = timers.iter().min_by(|a, b| a.1.0.total_cmp(&b.1.0)).map(|(id, _)| *id);
            let (due, waker) = timers.remove(&first.expect("waits for nothing")).unwrap();
            drop(timers);
            self.0.now.set(due.max(self.0.now.get()));
            waker.wake();
        }
    }
}

impl Host for Clock {
    type Bytes = Vec<u8>;

    async fn sha256(&self, bytes: &Vec<u8>) -> Result<Digest> {
        self.sleep(0.1).await;
        Ok(Digest::of(bytes))
    }

    async fn sha256_of_blocks(&self, bytes: &Vec<u8>) -> Result<Digest> {
        self.sleep(0.1).await;
        Ok(Digest::of_blocks(bytes))
    }

    async fn sleep(&self, milliseconds: f64) {
        struct Timer(Rc<ClockState>, u64);
        impl Drop for Timer {
            fn drop(&mut self) {
                self.0.timers.borrow_mut().remove(&self.1);
            }
        }
        let due = self.0.now.get() + milliseconds;
        let timer = Timer(self.0.clone(), self.0.next.replace(self.0.next.get() + 1));
        poll_fn(|context| {
            if self.0.now.get() >= due {
                return Poll::Ready(());
            }
            self.0.timers.borrow_mut().insert(timer.1, (due, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn now(&self) -> f64 {
        self.0.now.get()
    }

    fn wall_clock(&self) -> f64 {
        1e12 + self.0.now.get()
    }

    fn random(&self) -> f64 {
        self.0.random.borrow_mut().get_or_insert_with(|| fastrand::Rng::with_seed(1)).f64()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    NoConnection,
    Status(u16),
    /// Milliseconds.
    RetryAfter(f64),
    /// The stream breaks after so many bytes.
    Cut(usize),
    /// It ends after so many bytes as if that were all.
    Ends(usize),
    /// It has so few bytes, and Content-Length says so.
    Truncated(usize),
    /// One byte is wrong.
    Flip(usize),
    StalledHead,
    StalledBody(usize),
    /// 200 with everything, whatever was asked for.
    Whole,
    /// 206 for some other range.
    OtherRange,
    /// Content-Length of something else.
    Lies,
    /// The file is replaced before this request is answered.
    Replaced,
    /// A range ends after so many bytes, and says so.
    Short(usize),
    /// 200 with a web page, labelled as such.
    Page,
}

pub type Choose = Box<dyn FnMut(&Request) -> Option<Fault>>;
/// Changes what is told of an answer.
pub type Dress = Box<dyn Fn(&Request, &mut Head)>;
/// Given the verb, whether it fails.
pub type Failing = Box<dyn FnMut(&str) -> bool>;

#[derive(Clone)]
pub struct File {
    pub bytes: Vec<u8>,
    pub etag: Option<String>,
    /// The header of this name.
    pub link: Option<String>,
}

/// One server for every address.
#[derive(Default)]
pub struct Server {
    pub files: RefCell<BTreeMap<String, File>>,
    /// What [`Fault::Replaced`] puts in place.
    pub replacements: RefCell<BTreeMap<String, File>>,
    /// Chooses the fault of a request.
    pub faults: RefCell<Option<Choose>>,
    pub requests: RefCell<Vec<Request>>,
    /// Bytes of bodies that were taken, by address.
    pub sent: RefCell<BTreeMap<String, usize>>,
    pub no_ranges: Cell<bool>,
    /// Status of what is not there; 0: 404.
    pub absent: Cell<u16>,
    pub dress: RefCell<Option<Dress>>,
    /// Milliseconds before each chunk; 0: one.
    pub chunk_ms: Cell<f64>,
}

impl Server {
    pub fn put(&self, url: &str, bytes: &[u8], etag: Option<&str>) {
        let file = File { bytes: bytes.to_vec(), etag: etag.map(Into::into), link: None };
        self.files.borrow_mut().insert(url.into(), file);
    }
}

#[derive(Clone)]
pub struct Net(pub Rc<Server>, pub Clock);

pub struct Stream {
    net: Net,
    url: String,
    bytes: Vec<u8>,
    at: usize,
    fault: Option<Fault>,
}

impl Http for Net {
    type Bytes = Vec<u8>;
    type Body = Stream;

    async fn send(&self, request: &Request) -> std::result::Result<(Head, Stream), Unsent> {
        self.0.requests.borrow_mut().push(request.clone());
        let fault = self.0.faults.borrow_mut().as_mut().and_then(|choose| choose(request));
        self.1.sleep(5.0).await;
        let mut head = Head { status: 200, encoded: Some(false), ..Head::default() };
        let mut body = Vec::new();
        match fault {
            Some(Fault::NoConnection) => return Err(Unsent::Failed("no connection".into())),
            Some(Fault::StalledHead) => std::future::pending().await,
            Some(Fault::Replaced) => self.0.files.borrow_mut().append(&mut self.0.replacements.borrow_mut()),
            _ => {}
        }
        let path = request.url.split('?').next().unwrap_or_default();
        match (fault, self.0.files.borrow().get(path)) {
            (Some(Fault::Status(status)), _) => head.status = status,
            (Some(Fault::RetryAfter(ms)), _) => {
                head.status = 429;
                head.set("retry-after", &(ms / 1e3).to_string(), 0.0, |_| None);
            }
            (Some(Fault::Page), _) => {
                head.html = true;
                body = b"<!DOCTYPE html><title>Log in</title>".repeat(20);
                head.content_length = Some(body.len() as u64);
            }
            (_, None) => head.status = if self.0.absent.get() == 0 { 404 } else { self.0.absent.get() },
            (fault, Some(file)) => {
                let size = file.bytes.len() as u64;
                head.version.clone_from(&file.etag);
                if let Some(link) = &file.link {
                    head.set("link", link, 0.0, |_| None);
                }
                let whole = fault == Some(Fault::Whole)
                    || self.0.no_ranges.get()
                    || request.if_range.as_ref().is_some_and(|v| file.etag.as_ref() != Some(v));
                match &request.range {
                    Some(range) if !whole && range.start >= size => head.status = 416,
                    Some(range) if !whole => {
                        let mut range = range.start..range.end.min(size);
                        if let Some(Fault::Short(n)) = fault {
                            range.end = range.end.min(range.start + n as u64);
                        }
                        if fault == Some(Fault::OtherRange) && range.start > 0 {
                            range.start -= 1;
                        }
                        head.status = 206;
                        head.set(
                            "content-range",
                            &format!("bytes {}-{}/{size}", range.start, range.end - 1),
                            0.0,
                            |_| None,
                        );
                        body = file.bytes[range.start as usize..range.end as usize].to_vec();
                    }
                    _ => body.clone_from(&file.bytes),
                }
                let length = if fault == Some(Fault::Lies) { size / 2 + 1 } else { body.len() as u64 };
                head.content_length = Some(length);
                if request.head {
                    body.clear();
                }
            }
        }
        if let Some(Fault::Truncated(at)) = fault {
            body.truncate(at);
            head.content_length = Some(body.len() as u64);
        }
        if let Some(Fault::Flip(at)) = fault
            && !body.is_empty()
        {
            let at = at % body.len();
            body[at] ^= 0x10;
        }
        if let Some(dress) = &*self.0.dress.borrow() {
            dress(request, &mut head);
        }
        Ok((head, Stream { net: self.clone(), url: path.into(), bytes: body, at: 0, fault }))
    }
}

impl Body for Stream {
    type Bytes = Vec<u8>;

    async fn chunk(&mut self) -> std::result::Result<Option<Vec<u8>>, String> {
        self.net.1.sleep(self.net.0.chunk_ms.get().max(1.0)).await;
        let mut end = self.bytes.len().min(self.at + 700);
        if let Some(Fault::Cut(n) | Fault::Ends(n) | Fault::StalledBody(n)) = self.fault {
            end = end.min(n.max(self.at));
            if end == self.at && end < self.bytes.len() {
                match self.fault {
                    Some(Fault::Cut(_)) => return Err("connection reset".into()),
                    Some(Fault::StalledBody(_)) => std::future::pending().await,
                    _ => return Ok(None),
                }
            }
        }
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let chunk = self.bytes[self.at..end].to_vec();
        self.at = end;
        *self.net.0.sent.borrow_mut().entry(self.url.clone()).or_default() += chunk.len();
        Ok(Some(chunk))
    }
}

/// A store that several "tabs" share.
#[derive(Clone, Default)]
pub struct MemoryStore(pub Rc<Shelf>);

#[derive(Default)]
pub struct Shelf {
    pub pieces: RefCell<BTreeMap<String, (Vec<u8>, Digest)>>,
    pub records: RefCell<BTreeMap<String, String>>,
    pub free: Cell<Option<u64>>,
    /// Whether the next read or write fails.
    pub failing: RefCell<Option<Failing>>,
    locks: RefCell<HashMap<String, (usize, bool)>>,
    waiting: RefCell<Vec<Waker>>,
}

pub struct Held(Rc<Shelf>, String, LockMode);

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.0.locks.borrow_mut();
        let lock = locks.get_mut(&self.1).unwrap();
        match self.2 {
            LockMode::Shared => lock.0 -= 1,
            LockMode::Exclusive => lock.1 = false,
        }
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
}

impl MemoryStore {
    fn work(&self, verb: &str) -> Result<()> {
        let fails = self.0.failing.borrow_mut().as_mut().is_some_and(|fails| fails(verb));
        if fails { Err(Error::Storage { problem: format!("{verb} failed") }) } else { Ok(()) }
    }
}

impl Store for MemoryStore {
    type Bytes = Vec<u8>;
    type Lock = Held;

    async fn piece(&self, key: &str, hashed: bool) -> Result<Option<Stored<Vec<u8>>>> {
        self.work("piece")?;
        let found = self.0.pieces.borrow().get(key).cloned();
        Ok(found.map(|(bytes, sha256)| Stored { blocks: hashed.then(|| Digest::of_blocks(&bytes)), bytes, sha256 }))
    }

    async fn present(&self, keys: &[String]) -> Result<Vec<bool>> {
        self.work("present")?;
        Ok(keys.iter().map(|k| self.0.pieces.borrow().contains_key(k)).collect())
    }

    async fn put_piece(&self, key: &str, bytes: &Vec<u8>, sha256: Digest) -> Result<()> {
        self.work("put_piece")?;
        self.0.pieces.borrow_mut().insert(key.into(), (bytes.clone(), sha256));
        Ok(())
    }

    async fn delete_pieces(&self, keys: &[String]) -> Result<()> {
        self.work("delete_pieces")?;
        self.0.pieces.borrow_mut().retain(|k, _| !keys.contains(k));
        Ok(())
    }

    async fn records(&self) -> Result<Vec<(String, String)>> {
        Ok(self.0.records.borrow().clone().into_iter().collect())
    }

    async fn record(&self, model: &str) -> Result<Option<String>> {
        self.work("record")?;
        Ok(self.0.records.borrow().get(model).cloned())
    }

    async fn put_record(&self, model: &str, record: &str) -> Result<()> {
        self.work("put_record")?;
        self.0.records.borrow_mut().insert(model.into(), record.into());
        Ok(())
    }

    async fn delete_record(&self, model: &str) -> Result<()> {
        self.0.records.borrow_mut().remove(model);
        Ok(())
    }

    async fn collect(&self, used: InUse<'_>) -> Result<usize> {
        let used = used(&self.records().await?);
        let before = self.0.pieces.borrow().len();
        self.0.pieces.borrow_mut().retain(|key, _| used.contains(key));
        Ok(before - self.0.pieces.borrow().len())
    }

    async fn free(&self) -> Option<u64> {
        self.0.free.get()
    }

    async fn persisted(&self) -> bool {
        true
    }

    async fn lock(&self, name: &str, mode: LockMode, wait: bool) -> Result<Option<Held>> {
        self.work("lock")?;
        poll_fn(|context| {
            let mut locks = self.0.locks.borrow_mut();
            let (shared, exclusive) = locks.entry(name.into()).or_default();
            let excluded = *exclusive || (mode == LockMode::Exclusive && *shared > 0);
            match (excluded, mode) {
                (true, _) if wait => {
                    self.0.waiting.borrow_mut().push(context.waker().clone());
                    return Poll::Pending;
                }
                (true, _) => return Poll::Ready(Ok(None)),
                (_, LockMode::Shared) => *shared += 1,
                (_, LockMode::Exclusive) => *exclusive = true,
            }
            Poll::Ready(Ok(Some(Held(self.0.clone(), name.into(), mode))))
        })
        .await
    }
}

/// Runs two futures side by side.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    futures_util::future::join(a, b).await
}
