//! A model behind HTTP: a folder on any static host, or a repository of a Hugging Face hub, with mirrors.
//! Everything that servers do wrong is dealt with here; what is left to a platform is one request ([`Http`]).
//!
//! The access token goes to the origin of the source and to no other: it is put on requests to that origin only, and the
//! Fetch standard removes `Authorization` from a request that is redirected to another origin ("HTTP-redirect fetch",
//! step "current URL's origin is not same origin with locationURL's origin"). A script cannot do better: with
//! `redirect: 'manual'` the browser hides the target.

use super::digest::Digest;
use super::file::FileMeta;
use super::formats::safetensors;
use super::source::{Host, Source, buffer};
use crate::bytes::{Buffer, Bytes};
use crate::error::{Error, Result};
use futures_util::future::{Either, select};
use serde::Deserialize;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::ops::Range;
use std::pin::pin;

/// One GET (or HEAD).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub url: String,
    pub range: Option<Range<u64>>,
    /// Strong ETag: if the file has another by now, the server is to send the whole of it. May be left out
    /// where sending it would need a CORS preflight; the ETag of the answer is compared anyway.
    pub if_range: Option<String>,
    pub token: Option<String>,
    pub head: bool,
}

/// Status and headers of an answer, as far as the browser lets them be seen.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub status: u16,
    /// ETag, or else Last-Modified.
    pub version: Option<String>,
    /// First byte, last byte, total.
    pub content_range: Option<(u64, u64, Option<u64>)>,
    pub content_length: Option<u64>,
    /// Whether the body was compressed on the way, so that [`Self::content_length`] is not its length; `None` where that is hidden.
    pub encoded: Option<bool>,
    /// In milliseconds.
    pub retry_after: Option<f64>,
    pub html: bool,
    /// `Link` with `rel="next"`, as it was sent: where a list goes on.
    pub next: Option<String>,
}

impl Head {
    /// Fills in a header that matters; `name` in lower case. `now`: milliseconds since 1970, `date`: parses an HTTP date to the same.
    pub fn set(&mut self, name: &str, value: &str, now: f64, date: impl Fn(&str) -> Option<f64>) {
        match name {
            "etag" => self.version = Some(value.into()),
            "last-modified" if self.version.is_none() => self.version = Some(value.into()),
            "content-length" => self.content_length = value.parse().ok(),
            "content-type" => {
                let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
                self.html = kind == "text/html" || kind == "application/xhtml+xml";
            }
            "content-encoding" => self.encoded = Some(!value.trim().is_empty() && value.trim() != "identity"),
            "content-range" => self.content_range = parse_content_range(value),
            "link" => self.next = parse_next(value),
            "retry-after" => {
                let seconds = value.parse().ok().filter(|s: &f64| s.is_finite()).map(|s| s * 1e3);
                self.retry_after = seconds.or_else(|| date(value).map(|then| then - now)).map(|ms| ms.max(0.0));
            }
            _ => {}
        }
    }
}

fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()))
}

/// The target of `rel="next"` among the links of a `Link` header (RFC 8288).
fn parse_next(value: &str) -> Option<String> {
    value.split('<').skip(1).find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let next =
            parameters.split(';').any(|p| matches!(p.trim().trim_end_matches([',', ' ']), "rel=\"next\"" | "rel=next"));
        next.then(|| target.to_owned())
    })
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsent {
    /// What the transport says: no connection, CORS.
    Failed(String),
    /// A Content-Security-Policy forbids it: what would have to be added.
    Forbidden(String),
}

/// Sends one request.
#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Http {
    type Bytes: Buffer;
    type Body: Body<Bytes = Self::Bytes>;

    /// Dropping the future, or later the body, cancels the request.
    async fn send(&self, request: &Request) -> std::result::Result<(Head, Self::Body), Unsent>;
}

#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Body {
    type Bytes: Buffer;

    /// The next bytes; `None` at the end.
    async fn chunk(&mut self) -> std::result::Result<Option<Self::Bytes>, String>;
}

/// First bytes of a file that are fetched to learn its size and version; a safetensors header is mostly shorter.
#[cfg(not(test))]
const HEAD_BYTES: u64 = 128 << 10;
#[cfg(test)]
const HEAD_BYTES: u64 = 1 << 10;
/// Milliseconds without a byte after which a request counts as stalled.
const STALL: f64 = 20_000.0;
/// Attempts in a row that bring less than [`PROGRESS`].
const ATTEMPTS: u32 = 6;
/// Attempts for one range in all.
const ATTEMPTS_IN_ALL: u32 = 40;
/// Milliseconds that an answer whose bytes have all arrived may take to end.
const LAST_WAIT: f64 = 50.0;
/// Bytes that count as progress.
const PROGRESS: u64 = HEAD_BYTES / 2;
/// Milliseconds before the first retry; doubled each time, up to [`LONGEST_WAIT`], less up to half at random.
const FIRST_WAIT: f64 = 500.0;
const LONGEST_WAIT: f64 = 15_000.0;
/// Longest `Retry-After` that is waited for, in milliseconds.
const LONGEST_RETRY_AFTER: f64 = 120_000.0;
/// Most parts of a list of the hub's API (of 1,000 files each).
const MAX_PAGES: usize = 100;
/// Longest answer of the hub's API, in bytes.
const MAX_API: u64 = 16 << 20;
/// Version of a file that the server gives none: no byte of it is taken for a byte of another session's.
pub(super) const SESSION: &str = "session ";

/// Where the files are.
enum Place {
    Folder,
    Hub { id: String, revision: String },
}

/// [`Source`] over HTTP.
pub struct HttpSource<N: Http, H> {
    http: N,
    host: H,
    place: Place,
    /// The file that the address names.
    gguf: Option<String>,
    /// The source's own base address, then the mirrors'.
    bases: Vec<String>,
    token: Option<String>,
    /// The base that answered last.
    preferred: Cell<usize>,
    /// First bytes of files, as [`Source::stat`] fetched them.
    heads: RefCell<HashMap<String, N::Bytes>>,
    /// Why a file counts as absent, by name.
    absent: RefCell<HashMap<String, Absent>>,
    /// All small files beside the weights, where that is known.
    listed: RefCell<Option<HashSet<String>>>,
    /// Files that are answered whole when a range is asked for.
    unranged: RefCell<HashSet<String>>,
    /// Answers that run on where the last piece ended: position, body, rest of its last chunk.
    running: RefCell<HashMap<String, Running<N>>>,
    commit: OnceCell<String>,
    /// Files of the hub's repository.
    listing: OnceCell<BTreeMap<String, FileMeta>>,
}

struct Running<N: Http> {
    base: usize,
    position: u64,
    rest: Option<(N::Bytes, usize)>,
    body: N::Body,
    /// Where the answer says that it ends; what comes after has to be asked for anew.
    end: Option<u64>,
    html: bool,
}

/// Why a file counts as absent.
#[derive(Debug, Clone, Copy)]
enum Absent {
    Status(u16),
    /// With 200, but without a byte.
    Empty,
    Page,
}

/// Why an attempt failed.
enum Fault {
    /// Trying again is of no use.
    Final(Error),
    /// There is no such file.
    Absent(u16),
    /// The server has no such range (416).
    NoRange(Error),
    Retry {
        error: Error,
        after: Option<f64>,
    },
}

impl<N: Http, H: Host<Bytes = N::Bytes>> HttpSource<N, H> {
    /// A folder in Hugging Face layout, or a file that ends with `.gguf`. `url` and `mirrors` are absolute; a query string is
    /// kept for every file. A mirror of a file has it under the same name; its folder will do as address.
    pub fn folder(http: N, host: H, url: &str, token: Option<String>, mirrors: &[String]) -> Result<Self> {
        let (url, gguf) = folder_and_gguf(url);
        let mirrors: Vec<_> = mirrors.iter().map(|mirror| folder_and_gguf(mirror).0).collect();
        Self::new(http, host, Place::Folder, gguf, &url, token, &mirrors)
    }

    /// Repository `id` (`org/name`) of the hub at `hub`, such as `https://huggingface.co`; or a GGUF in it
    /// (`org/name/folder/file.gguf`).
    pub fn hub(
        http: N,
        host: H,
        hub: &str,
        id: &str,
        revision: &str,
        token: Option<String>,
        mirrors: &[String],
    ) -> Result<Self> {
        let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let slash = id.match_indices('/').nth(1).map(|(at, _)| at);
        let (repository, gguf) = slash.map_or((id, None), |at| (&id[..at], Some(&id[at + 1..])));
        let named = repository.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name));
        if !named || id.contains("..") || gguf.is_some_and(|file| !is_gguf(file) || !file.split('/').all(plain)) {
            let problem = format!("{id:?} is not a hub id such as org/name or org/name/file.gguf");
            return Err(Error::option("source", problem));
        }
        if !revision.split('/').all(|part| plain(part) && part != "." && part != "..") {
            return Err(Error::option("revision", format!("{revision:?} is not a branch, tag or commit")));
        }
        let place = Place::Hub { id: repository.into(), revision: revision.into() };
        Self::new(http, host, place, gguf.map(str::to_owned), hub, token, mirrors)
    }

    fn new(
        http: N,
        host: H,
        place: Place,
        gguf: Option<String>,
        url: &str,
        token: Option<String>,
        mirrors: &[String],
    ) -> Result<Self> {
        let bases =
            std::iter::once(url).chain(mirrors.iter().map(String::as_str)).map(normal_base).collect::<Result<_>>()?;
        Ok(Self {
            http,
            host,
            place,
            gguf,
            bases,
            token,
            preferred: Cell::new(0),
            heads: RefCell::default(),
            absent: RefCell::default(),
            listed: RefCell::default(),
            unranged: RefCell::default(),
            running: RefCell::default(),
            commit: OnceCell::new(),
            listing: OnceCell::new(),
        })
    }

    /// Address of a file under base number `base`.
    fn url(&self, base: usize, name: &str) -> String {
        let (path, query) = self.bases[base].split_once('?').map_or((&*self.bases[base], ""), |(p, q)| (p, q));
        let mut url = match &self.place {
            Place::Folder => format!("{path}{name}"),
            Place::Hub { id, revision } => {
                let revision = self.commit.get().unwrap_or(revision).replace('/', "%2F");
                format!("{path}{id}/resolve/{revision}/{name}")
            }
        };
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        url
    }

    fn request(&self, base: usize, url: String) -> Request {
        let token = self.token.clone().filter(|_| origin(&self.bases[base]) == origin(&self.bases[0]));
        Request { url, token, ..Request::default() }
    }

    /// Runs `attempt` with each base in turn, beginning with the one that last worked, each until it works or there is no
    /// more hope. The error is that of the first base. `attempt` is given the base and says how many bytes it brought.
    async fn on_any_base<T>(
        &self,
        skip: usize,
        mut attempt: impl AsyncFnMut(usize, &Cell<u64>) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        let mut first = None;
        let start = self.preferred.get() + skip;
        for base in (start..start + self.bases.len()).map(|n| n % self.bases.len()) {
            match self.with_retries(&mut attempt, base).await {
                Ok(done) => {
                    self.preferred.set(base);
                    return Ok(done);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::internal("no base address")))
    }

    async fn with_retries<T>(
        &self,
        attempt: &mut impl AsyncFnMut(usize, &Cell<u64>) -> std::result::Result<T, Fault>,
        base: usize,
    ) -> Result<T> {
        let (mut fruitless, mut all) = (0, 0);
        loop {
            let brought = Cell::new(0);
            let (error, after) = match attempt(base, &brought).await {
                Ok(done) => return Ok(done),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Absent(status)) => {
                    let searched = format!("{} (HTTP {status})", shown(&self.bases[base]));
                    return Err(Error::FileNotFound { file: self.id(), searched });
                }
                Err(Fault::NoRange(error)) => (error, None),
                Err(Fault::Retry { error, after }) => (error, after),
            };
            fruitless = if brought.get() >= PROGRESS { 1 } else { fruitless + 1 };
            all += 1;
            if fruitless == ATTEMPTS || all == ATTEMPTS_IN_ALL || after.is_some_and(|ms| ms > LONGEST_RETRY_AFTER) {
                return Err(error);
            }
            let backoff = (FIRST_WAIT * f64::from(1 << (fruitless - 1))).min(LONGEST_WAIT);
            let backoff = backoff * (1.0 - self.host.random() / 2.0);
            self.host.sleep(after.map_or(backoff, |ms| ms.max(FIRST_WAIT) + backoff / 8.0)).await;
        }
    }

    /// Sends a request and sorts its answer: only 200 and 206 come back.
    async fn send(&self, request: &Request) -> std::result::Result<(Head, N::Body), Fault> {
        let url = shown(&request.url);
        let network = |problem: String| Error::Network { url: url.clone(), problem };
        let sent = async {
            match self.http.send(request).await {
                Ok(answer) => Ok(Ok(answer)),
                Err(Unsent::Failed(problem)) => Err(problem),
                Err(Unsent::Forbidden(needed)) => Ok(Err(Error::Csp { what: url.clone(), needed })),
            }
        };
        let sent = self.in_time(sent).await;
        let answer = sent.map_err(|problem| Fault::Retry { error: network(problem), after: None })?;
        let (head, body) = answer.map_err(Fault::Final)?;
        let status = head.status;
        let folder = matches!(self.place, Place::Folder);
        match status {
            200 | 206 => Ok((head, body)),
            401 => Err(Fault::Final(Error::Gated { url, status })),
            403 if !folder => Err(Fault::Final(Error::Gated { url, status })),
            416 => Err(Fault::NoRange(network("HTTP 416".into()))),
            408 | 425 | 429 | 500..=599 => {
                Err(Fault::Retry { error: network(format!("HTTP {status}")), after: head.retry_after })
            }
            402 | 407 => Err(Fault::Final(network(format!("HTTP {status}")))),
            404 | 410 => Err(Fault::Absent(status)),
            // Hosts say in many ways that they have no such file: an object store 400 or 403, a router 405, one that negotiates
            // 406, others answer with nothing at all.
            204 | 205 | 400..=499 if folder => Err(Fault::Absent(status)),
            _ => Err(Fault::Final(network(format!("HTTP {status}")))),
        }
    }

    /// Waits for the network, but not for ever.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, String>>,
    ) -> std::result::Result<T, String> {
        match select(pin!(work), pin!(self.host.sleep(STALL))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(format!("no byte for {} seconds", STALL / 1e3)),
        }
    }

    /// Reads a whole answer, or its first `limit` bytes. `None` if file `name` is not there.
    async fn fetch(
        &self,
        name: &str,
        request: &Request,
        limit: u64,
    ) -> std::result::Result<Option<(Head, N::Bytes)>, Fault> {
        let absent = |why: Absent| {
            self.absent.borrow_mut().insert(name.into(), why);
            Ok(None)
        };
        let (head, mut body) = match self.send(request).await {
            Ok(answer) => answer,
            Err(Fault::Absent(status)) => return absent(Absent::Status(status)),
            Err(fault) => return Err(fault),
        };
        let retry = |problem| Fault::Retry { error: Error::Network { url: shown(&request.url), problem }, after: None };
        let mut chunks = Vec::new();
        let mut total = 0;
        while total < limit {
            let Some(chunk) = self.in_time(body.chunk()).await.map_err(retry)? else {
                // Less than promised is cut off, unless it was compressed on the way: then the promise is of something else.
                match head.content_length {
                    Some(promised) if promised > total && (head.encoded == Some(false) || total == 0) => {
                        return Err(retry(format!("cut off at byte {total}")));
                    }
                    _ => break,
                }
            };
            total += chunk.len() as u64;
            chunks.push(chunk);
        }
        if total == 0 && head.status == 200 {
            return absent(Absent::Empty);
        }
        let mut whole = buffer::<N::Bytes>(&request.url, total).map_err(Fault::Final)?;
        let mut at = 0;
        for chunk in chunks {
            let len = chunk.len();
            whole.copy_from(at, &chunk, 0..len);
            at += len;
            chunk.release();
        }
        // The host of a single-page application answers every address with its page.
        if is_page(name, head.html, &whole) {
            return absent(Absent::Page);
        }
        Ok(Some((head, whole)))
    }

    /// One attempt to fill `out` from `got` on with bytes `range` of the file. `version` is what the file must be; it is
    /// set by the first answer if it is not known.
    #[allow(clippy::too_many_arguments, reason = "the state of one download, borrowed apart")]
    async fn fill(
        &self,
        base: usize,
        file: &FileMeta,
        range: &Range<u64>,
        out: &mut N::Bytes,
        got: &mut u64,
        version: &mut Option<String>,
        arrived: &dyn Fn(u64),
    ) -> std::result::Result<(), Fault> {
        let url = self.url(base, &file.name);
        let cut = |problem: String| Fault::Retry { error: Error::Network { url: shown(&url), problem }, after: None };
        let running = self.running.borrow_mut().remove(&file.name);
        let from = range.start + *got;
        let mut stream = match running {
            Some(stream) if stream.base == base && stream.position <= from && from > 0 => stream,
            _ => self.ask(base, file, from..range.end, version).await?,
        };
        let before = *got;
        while *got < range.end - range.start {
            let wanted_from = range.start + *got;
            let (chunk, mut offset) = match stream.rest.take() {
                Some(rest) => rest,
                None => match self.in_time(stream.body.chunk()).await.map_err(cut)? {
                    Some(chunk) => (chunk, 0),
                    // A proxy that cuts ranges short gives the next part when it is asked for it.
                    None if stream.end == Some(stream.position) && stream.position == wanted_from && *got > before => {
                        stream = self.ask(base, file, wanted_from..range.end, version).await?;
                        continue;
                    }
                    None => return Err(cut(format!("the answer ended at byte {} of {}", stream.position, range.end))),
                },
            };
            if stream.position == 0 && offset == 0 && is_page(&file.name, stream.html, &chunk) {
                // Of a login or a captive portal, which may be over in a moment.
                return Err(Fault::Retry { error: Error::WebPage { url: shown(&url) }, after: None });
            }
            let skipped = (wanted_from - stream.position).min((chunk.len() - offset) as u64);
            offset += skipped as usize;
            stream.position += skipped;
            let take = (range.end - wanted_from).min((chunk.len() - offset) as u64);
            out.copy_from(*got as usize, &chunk, offset..offset + take as usize);
            offset += take as usize;
            stream.position += take;
            *got += take;
            if take > 0 {
                arrived(*got);
            }
            if offset < chunk.len() {
                stream.rest = Some((chunk, offset));
            } else {
                chunk.release();
            }
        }
        if self.unranged.borrow().contains(&file.name) && range.end < file.size {
            self.running.borrow_mut().insert(file.name.clone(), stream);
        } else if stream.rest.is_none() {
            // An answer that is heard out, and not broken off at its last byte, leaves a connection that can be used again.
            select(pin!(stream.body.chunk()), pin!(self.host.sleep(LAST_WAIT))).await;
        }
        Ok(())
    }

    /// Asks for a part of a file, which may be all of it.
    async fn ask(
        &self,
        base: usize,
        file: &FileMeta,
        part: Range<u64>,
        version: &mut Option<String>,
    ) -> std::result::Result<Running<N>, Fault> {
        let url = self.url(base, &file.name);
        let whole = part == (0..file.size);
        let mut request = self.request(base, url.clone());
        if !whole {
            request.range = Some(part.clone());
            request.if_range = version.clone().filter(|v| v.starts_with('"'));
        }
        let (head, body) = match self.send(&request).await {
            Ok(answer) => answer,
            // It was there a moment ago: an address that expired, say.
            Err(Fault::Absent(status @ 403)) => return Err(Fault::Final(Error::Gated { url: shown(&url), status })),
            Err(Fault::Absent(status)) => {
                let searched = format!("{} (HTTP {status})", shown(&self.bases[base]));
                return Err(Fault::Final(Error::FileNotFound { file: file.name.clone(), searched }));
            }
            Err(fault) => return Err(fault),
        };
        if !whole && head.status == 200 {
            self.unranged.borrow_mut().insert(file.name.clone());
        }
        check_version(file, version, &head).map_err(Fault::Final)?;
        let (mut position, mut end) = (0, None);
        if head.status == 206 {
            position = part.start;
            // Without a Content-Range that can be seen, the answer may be as long as it likes.
            end = head
                .content_length
                .filter(|_| head.encoded != Some(true))
                .map(|length| part.start.saturating_add(length));
            if let Some((first, last, total)) = head.content_range {
                if let Some(total) = total
                    && total != file.size
                {
                    let (expected, got) = (file.size.to_string(), total.to_string());
                    return Err(Fault::Final(changed(file, "size", &expected, &got)));
                }
                if first != part.start || last < first {
                    let problem = format!("asked for bytes from {} on, got {first} to {last}", part.start);
                    return Err(Fault::Retry { error: Error::Network { url: shown(&url), problem }, after: None });
                }
                end = last.checked_add(1);
            }
        }
        Ok(Running { base, position, rest: None, body, end, html: head.html })
    }

    /// Files of the hub's repository at the pinned commit; `None` for a plain folder.
    async fn listing(&self) -> Result<Option<&BTreeMap<String, FileMeta>>> {
        #[derive(Deserialize)]
        struct Revision {
            sha: String,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(rename = "type")]
            kind: String,
            path: String,
            size: u64,
            oid: Option<String>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            oid: String,
            size: u64,
        }
        let Place::Hub { id, revision } = &self.place else { return Ok(None) };
        if let Some(listing) = self.listing.get() {
            return Ok(Some(listing));
        }
        if self.commit.get().is_none() {
            let (Revision { sha }, _) =
                self.api(&format!("api/models/{id}/revision/{}", revision.replace('/', "%2F"))).await?;
            if sha.is_empty() || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(Error::Network { url: self.id(), problem: format!("the hub names commit {sha:?}") });
            }
            let _ = self.commit.set(sha);
        }
        let commit = self.commit.get().map_or("", String::as_str);
        let mut path = format!("api/models/{id}/tree/{commit}?recursive=true");
        let mut entries = Vec::<Entry>::new();
        for page in 0.. {
            let (part, next): (Vec<Entry>, _) = self.api(&path).await?;
            entries.extend(part);
            match next {
                None => break,
                Some(next) if page < MAX_PAGES => path = next,
                Some(_) => {
                    let problem = format!("the hub's list of files goes on after {} entries", entries.len());
                    return Err(Error::Network { url: self.id(), problem });
                }
            }
        }
        let files = entries.into_iter().filter(|e| e.kind == "file").map(|e| {
            let mut file = FileMeta { version: e.oid, ..FileMeta::new(&e.path, e.size) };
            if let Some(lfs) = e.lfs {
                file.sha256 = Digest::parse(lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid));
                file.size = lfs.size;
            }
            (e.path, file)
        });
        Ok(Some(self.listing.get_or_init(|| files.collect())))
    }

    /// What the hub's API says at `path`, and the path at which it goes on.
    async fn api<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<(T, Option<String>)> {
        self.on_any_base(0, async |base, _| {
            let root = self.bases[base].split('?').next().unwrap_or_default();
            let url = format!("{root}{path}");
            match self.fetch("api.json", &self.request(base, url.clone()), MAX_API).await? {
                None => Err(Fault::Final(Error::FileNotFound { file: self.id(), searched: shown(&url) })),
                Some((head, bytes)) => {
                    let wrong = |problem: String| Fault::Final(Error::Network { url: shown(&url), problem });
                    let answer = serde_json::from_slice(&bytes.to_vec())
                        .map_err(|e| wrong(format!("not what the hub's API says: {e}")))?;
                    // The token must not follow a link to somewhere else, and another base must find the same list.
                    let next = head.next.as_deref().map(|next| {
                        next.strip_prefix(root)
                            .or_else(|| next.strip_prefix('/'))
                            .map(str::to_owned)
                            .ok_or_else(|| wrong(format!("its list goes on at another place, {}", shown(next))))
                    });
                    Ok((answer, next.transpose()?))
                }
            }
        })
        .await
    }

    /// Whether the folder's own list says that there is no such file: to ask for it would only be noise in the console.
    fn unlisted(&self, name: &str) -> bool {
        self.listed.borrow().as_ref().is_some_and(|listed| !listed.contains(name))
    }

    /// Size of a file whose answer did not tell it for certain.
    async fn size(&self, base: usize, name: &str, head: &Head, bytes: &N::Bytes) -> std::result::Result<u64, Fault> {
        let len = bytes.len() as u64;
        if head.status == 200 && len < HEAD_BYTES {
            return Ok(len);
        }
        if name.ends_with(".safetensors") && len > 8 {
            let mut first = [0; 8];
            bytes.read(0, &mut first);
            if let Ok(header) = safetensors::header_len(name, first, Some(len)) {
                let mut text = vec![0; header as usize];
                bytes.read(8, &mut text);
                return safetensors::parse_header(name, &text).map(|(_, size)| size).map_err(Fault::Final);
            }
        }
        let told = |head: &Head| head.content_length.filter(|_| head.encoded != Some(true));
        let mut length = told(head).filter(|_| head.status == 200);
        if length.is_none() {
            // A host may refuse HEAD; then there is one more way.
            let request = Request { head: true, ..self.request(base, self.url(base, name)) };
            length = self.send(&request).await.ok().and_then(|(head, _)| told(&head)).filter(|length| *length >= len);
        }
        if length.is_none() && head.status == 206 {
            let request = Request { range: Some(len..len + 1), ..self.request(base, self.url(base, name)) };
            if let Err(Fault::NoRange(_)) = self.send(&request).await {
                length = Some(len);
            }
        }
        length.ok_or_else(|| {
            let problem = "the server does not tell the file's size (Content-Range must be exposed)".into();
            Fault::Final(Error::Network { url: shown(&self.url(base, name)), problem })
        })
    }
}

impl<N: Http, H: Host<Bytes = N::Bytes>> Source for HttpSource<N, H> {
    type Bytes = N::Bytes;

    fn id(&self) -> String {
        let file = self.gguf.as_deref().unwrap_or_default();
        match &self.place {
            Place::Folder => shown(&self.bases[0]) + file,
            Place::Hub { id, revision } => {
                let slash = if file.is_empty() { "" } else { "/" };
                let revision = if revision == "main" { String::new() } else { format!("@{revision}") };
                format!("{id}{slash}{file}{revision}")
            }
        }
    }

    fn gguf(&self) -> Option<String> {
        self.gguf.clone()
    }

    async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
        if let Some(listing) = self.listing().await? {
            return Ok(listing.get(name).cloned());
        }
        self.on_any_base(0, async |base, _| {
            let request = Request { range: Some(0..HEAD_BYTES), ..self.request(base, self.url(base, name)) };
            let found = match self.fetch(name, &request, HEAD_BYTES).await {
                // A server that does not cut a range at the end of the file, or an empty file.
                Err(Fault::NoRange(_)) => {
                    let request = Request { range: None, ..request.clone() };
                    self.fetch(name, &request, HEAD_BYTES).await?
                }
                found => found?,
            };
            let Some((head, bytes)) = found else { return Ok(None) };
            if let Some((first, ..)) = head.content_range
                && head.status == 206
                && first != 0
            {
                let problem = format!("asked for the first bytes, got them from {first} on");
                return Err(Fault::Retry { error: Error::Network { url: shown(&request.url), problem }, after: None });
            }
            let total = head.content_range.and_then(|(_, _, total)| total);
            let total = total.filter(|total| head.status == 206 && *total >= bytes.len() as u64);
            let size = match total {
                Some(total) => total,
                None => self.size(base, name, &head, &bytes).await?,
            };
            if head.status == 200 && size > bytes.len() as u64 {
                self.unranged.borrow_mut().insert(name.into());
            }
            self.heads.borrow_mut().insert(name.into(), bytes);
            let version = head.version.unwrap_or_else(|| format!("{SESSION}{}", self.host.random()));
            Ok(Some(FileMeta { version: Some(version), ..FileMeta::new(name, size) }))
        })
        .await
    }

    async fn read(
        &self,
        file: &FileMeta,
        range: Range<u64>,
        attempt: usize,
        arrived: &dyn Fn(u64),
    ) -> Result<N::Bytes> {
        let len = range.end - range.start;
        let mut out = buffer::<N::Bytes>(&file.name, len)?;
        if attempt == 0
            && let Some(head) = self.heads.borrow().get(&file.name)
            && range.end <= (head.len() as u64).min(HEAD_BYTES)
        {
            out.copy_from(0, head, range.start as usize..range.end as usize);
            return Ok(out);
        }
        self.listing().await?;
        let mut got = 0;
        // A commit's files do not change, and a hash says more than a version.
        let free = file.sha256.is_some() || matches!(self.place, Place::Hub { .. });
        let known = file.version.clone().filter(|v| !free && !v.starts_with(SESSION));
        let mut version = known.clone();
        let mut last = None;
        self.on_any_base(attempt, async |base, brought| {
            if last.replace(base).is_some_and(|last| last != base) {
                // Bytes of two servers make one piece only where a version says that they are the same.
                if known.is_none() {
                    got = 0;
                }
                version.clone_from(&known);
            }
            let before = got;
            let result = self.fill(base, file, &range, &mut out, &mut got, &mut version, arrived).await;
            brought.set(got - before);
            result
        })
        .await?;
        Ok(out)
    }

    async fn read_all(&self, name: &str, limit: u64) -> Result<Option<N::Bytes>> {
        if let Some(listing) = self.listing().await?
            && !listing.contains_key(name)
        {
            return Ok(None);
        }
        if self.unlisted(name) {
            return Ok(None);
        }
        let too_long = || Error::checkpoint(name, format!("more than {limit} bytes"));
        self.on_any_base(0, async |base, _| {
            let found = self.fetch(name, &self.request(base, self.url(base, name)), limit + 1).await?;
            match found {
                Some((_, bytes)) if bytes.len() as u64 > limit => Err(Fault::Final(too_long())),
                found => Ok(found.map(|(_, bytes)| bytes)),
            }
        })
        .await
    }

    fn missing(&self, file: &str, names: &[&str]) -> Error {
        let absent = self.absent.borrow();
        let mut why = names.iter().filter_map(|name| absent.get(*name).map(|why| (*name, *why)));
        if let Some((name, _)) = why.clone().find(|(_, why)| matches!(why, Absent::Page)) {
            return Error::WebPage { url: shown(&self.url(self.preferred.get(), name)) };
        }
        let why = why.next().map_or(String::new(), |(_, why)| match why {
            Absent::Status(status) => format!(" (HTTP {status})"),
            Absent::Empty | Absent::Page => " (it is empty)".into(),
        });
        Error::FileNotFound { file: file.into(), searched: format!("{}{why}", self.id()) }
    }

    fn listed(&self, names: &[String]) {
        *self.listed.borrow_mut() = Some(names.iter().cloned().collect());
    }

    fn ranged(&self, file: &FileMeta) -> bool {
        !self.unranged.borrow().contains(&file.name)
    }

    fn commit(&self) -> Option<String> {
        self.commit.get().cloned()
    }

    fn forget(&self) {
        self.heads.borrow_mut().clear();
        self.running.borrow_mut().clear();
    }

    fn pin(&self, commit: &str) {
        let _ = self.commit.set(commit.into());
    }
}

/// Whether the first bytes of an answer are those of a web page and not of file `name`; `html`: it is labelled as one, which some
/// hosts do with whatever they do not know.
fn is_page(name: &str, html: bool, bytes: &impl Bytes) -> bool {
    let mut first = [0; 64];
    let first = &mut first[..bytes.len().min(64)];
    bytes.read(0, first);
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start().to_ascii_lowercase();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|b| text.starts_with(b.as_bytes()));
    if begins(&["<!doctype html", "<html", "<head", "<body", "<script", "<?xml"]) {
        return true;
    }
    html && !match name.rsplit('.').next().unwrap_or_default() {
        "json" => begins(&["{", "["]),
        "safetensors" => first.get(8) == Some(&b'{'),
        "bin" | "pt" | "pth" => begins(&["pk"]) || first.first() == Some(&0x80),
        "gguf" => first.starts_with(b"GGUF"),
        "model" => first.first() == Some(&0x0a),
        "jinja" => begins(&["{%", "{{", "{#"]),
        _ => !begins(&["<"]),
    }
}

/// Compares the version of an answer with the one that is expected, or expects it from now on.
fn check_version(file: &FileMeta, expected: &mut Option<String>, head: &Head) -> Result<()> {
    match (&expected, &head.version) {
        (Some(expected), Some(got)) if core_of(expected) != core_of(got) => {
            Err(changed(file, "version", expected, got))
        }
        (None, Some(got)) => {
            *expected = Some(got.clone());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An ETag without what proxies that compress add to it.
fn core_of(version: &str) -> &str {
    let tag = version.strip_prefix("W/").unwrap_or(version).trim_matches('"');
    tag.strip_suffix("-gzip").or_else(|| tag.strip_suffix("-br")).unwrap_or(tag)
}

fn changed(file: &FileMeta, what: &str, expected: &str, got: &str) -> Error {
    Error::Integrity { file: file.name.clone(), piece: what.into(), expected: expected.into(), got: got.into() }
}

/// Whether a path is that of a GGUF.
fn is_gguf(path: &str) -> bool {
    path.ends_with(".gguf") && !path.ends_with("/.gguf")
}

/// The address of a GGUF, taken apart: its folder's, and its name. Any other address is a folder's.
fn folder_and_gguf(url: &str) -> (String, Option<String>) {
    let path = &url[..url.find(['?', '#']).unwrap_or(url.len())];
    match path.rsplit_once('/') {
        Some((folder, name)) if is_gguf(path) => (format!("{folder}/{}", &url[path.len()..]), Some(name.to_owned())),
        _ => (url.to_owned(), None),
    }
}

/// `https://host/folder/`, its query kept; any scheme that has such addresses, as a browser extension's own: `fetch` knows which it can do.
fn normal_base(url: &str) -> Result<String> {
    let url = url.split('#').next().unwrap_or_default();
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
        return Err(Error::option("source", format!("{url:?} is not an address such as https://host/folder/")));
    }
    let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
    let slash = if path.ends_with('/') { "" } else { "/" };
    Ok(match query {
        Some(query) => format!("{path}{slash}?{query}"),
        None => format!("{path}{slash}"),
    })
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    &url[..url[host..].find(['/', '?']).map_or(url.len(), |at| host + at)]
}

/// An address without its query, which may hold a secret.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().into()
}
