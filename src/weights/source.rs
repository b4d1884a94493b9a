//! Where bytes come from and where they are kept: the traits, and their native and in-memory implementations.
//! Futures are single-threaded (browser objects are not `Send`) and every one of them may be dropped at any await.

use super::digest::Digest;
use super::file::FileMeta;
use crate::bytes::Buffer;
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::ops::Range;

/// Clock, randomness and hashing of the platform.
#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Host {
    type Bytes: Buffer;

    async fn sha256(&self, bytes: &Self::Bytes) -> Result<Digest>;

    /// [`Digest::of_blocks`].
    async fn sha256_of_blocks(&self, bytes: &Self::Bytes) -> Result<Digest>;

    async fn sleep(&self, milliseconds: f64);

    /// Milliseconds since some fixed moment.
    fn now(&self) -> f64;

    /// Milliseconds since 1970-01-01 UTC.
    fn wall_clock(&self) -> f64;

    /// Uniform in [0, 1).
    fn random(&self) -> f64;
}

/// A folder of files, wherever it is.
#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Source {
    type Bytes: Buffer;

    /// Name of the model in the store, in lists and in messages.
    fn id(&self) -> String;

    /// The GGUF that the source's address names (any part of a split one), where that is no folder in Hugging Face layout.
    fn gguf(&self) -> Option<String> {
        None
    }

    /// What is known of file `name`; `None` if there is no such file.
    async fn stat(&self, name: &str) -> Result<Option<FileMeta>>;

    /// Bytes `range` of a file, of exactly the version that `file` describes: if it changed, [`Error::Integrity`].
    /// `arrived` hears how many bytes of the range have come so far. `attempt` counts from 0 the times that this
    /// range was asked for: later ones may go to another mirror.
    async fn read(
        &self,
        file: &FileMeta,
        range: Range<u64>,
        attempt: usize,
        arrived: &dyn Fn(u64),
    ) -> Result<Self::Bytes>;

    /// The whole of a file of at most `limit` bytes; `None` if there is no such file.
    async fn read_all(&self, name: &str, limit: u64) -> Result<Option<Self::Bytes>> {
        let Some(file) = self.stat(name).await? else { return Ok(None) };
        if file.size > limit {
            return Err(Error::checkpoint(name, format!("{} bytes are more than {limit}", file.size)));
        }
        self.read(&file, 0..file.size, 0, &|_| {}).await.map(Some)
    }

    /// The error for a file that the model cannot do without, called `file`: none of `names` was found.
    fn missing(&self, file: &str, _names: &[&str]) -> Error {
        Error::FileNotFound { file: file.into(), searched: self.id() }
    }

    /// These small files are all that there are beside the weights: others need not be asked for.
    fn listed(&self, _names: &[String]) {}

    /// Whether any range of the file can be asked for; if not, pieces are best read in order, one at a time.
    fn ranged(&self, _file: &FileMeta) -> bool {
        true
    }

    /// The commit (or the like) that everything is read from, once that is known.
    fn commit(&self) -> Option<String> {
        None
    }

    /// Read from this commit from now on, as far as the source has such a thing.
    fn pin(&self, _commit: &str) {}

    /// Drop what was kept of the files' contents: it may be damaged.
    fn forget(&self) {}

    /// Whether reading costs network traffic, so that a copy is worth keeping.
    fn remote(&self) -> bool {
        true
    }

    /// Whether looking for a file costs no request.
    fn local(&self) -> bool {
        false
    }
}

/// Given every record with its model, the keys of the pieces that are in use.
pub type InUse<'a> = &'a dyn Fn(&[(String, String)]) -> HashSet<String>;

/// A piece as it was found in a store.
pub struct Stored<B> {
    pub bytes: B,
    /// What it was stored with.
    pub sha256: Digest,
    /// [`Digest::of_blocks`] of the bytes, where that was asked for.
    pub blocks: Option<Digest>,
}

/// Keeps pieces and records of models. What a method writes it writes in one transaction: wholly or not at all.
#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Store {
    type Bytes: Buffer;
    /// Released when dropped.
    type Lock: 'static;

    /// The piece of this key; `hashed`: with [`Stored::blocks`], which may be computed beside the caller's work.
    async fn piece(&self, key: &str, hashed: bool) -> Result<Option<Stored<Self::Bytes>>>;

    /// These pieces will be asked for soon, in this order and so `hashed`: a store that works beside its caller may begin.
    fn expect(&self, _keys: &[String], _hashed: bool) {}

    /// Which of the keys are there.
    async fn present(&self, keys: &[String]) -> Result<Vec<bool>>;

    /// [`Error::Quota`] if there is no room.
    async fn put_piece(&self, key: &str, bytes: &Self::Bytes, sha256: Digest) -> Result<()>;

    async fn delete_pieces(&self, keys: &[String]) -> Result<()>;

    /// All records, by model.
    async fn records(&self) -> Result<Vec<(String, String)>>;

    async fn record(&self, model: &str) -> Result<Option<String>>;

    async fn put_record(&self, model: &str, record: &str) -> Result<()>;

    async fn delete_record(&self, model: &str) -> Result<()>;

    /// Deletes every piece that was not in use at one moment. Returns how many.
    async fn collect(&self, used: InUse<'_>) -> Result<usize>;

    /// Free bytes of the storage quota, where that is known.
    async fn free(&self) -> Option<u64>;

    /// Whether the storage is spared from eviction. To ask for that is the page's part.
    async fn persisted(&self) -> bool;

    /// The outcome of a GPU's self-check, if it was kept. Where nothing is kept every load checks anew.
    async fn verdict(&self, _key: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn put_verdict(&self, _key: &str, _verdict: &str) -> Result<()> {
        Ok(())
    }

    /// Takes the named lock; with `wait` false, `None` if another holds it in a way that excludes this.
    async fn lock(&self, name: &str, mode: LockMode, wait: bool) -> Result<Option<Self::Lock>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    Shared,
    Exclusive,
}

/// The native [`Host`].
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug, Clone)]
pub struct NativeHost(std::time::Instant);

#[cfg(not(target_arch = "wasm32"))]
impl Default for NativeHost {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Host for NativeHost {
    type Bytes = Vec<u8>;

    async fn sha256(&self, bytes: &Vec<u8>) -> Result<Digest> {
        Ok(Digest::of(bytes))
    }

    async fn sha256_of_blocks(&self, bytes: &Vec<u8>) -> Result<Digest> {
        Ok(Digest::of_blocks(bytes))
    }

    async fn sleep(&self, milliseconds: f64) {
        std::thread::sleep(std::time::Duration::from_secs_f64(milliseconds / 1e3));
    }

    fn now(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e3
    }

    fn wall_clock(&self) -> f64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }

    fn random(&self) -> f64 {
        use std::hash::{BuildHasher, RandomState};
        (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A folder on disk, or a GGUF in it.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug, Clone)]
pub struct DirSource {
    folder: std::path::PathBuf,
    gguf: Option<String>,
}

#[cfg(not(target_arch = "wasm32"))]
impl DirSource {
    /// `path` is a folder in Hugging Face layout, or a file that ends with `.gguf`.
    pub fn new(path: impl Into<std::path::PathBuf>) -> Self {
        let path = path.into();
        let gguf = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".gguf"));
        match (gguf, path.parent()) {
            (Some(name), Some(folder)) if !path.is_dir() => Self { folder: folder.into(), gguf: Some(name.into()) },
            _ => Self { folder: path, gguf: None },
        }
    }

    fn io(&self, name: &str, problem: std::io::Error) -> Error {
        Error::Io { path: self.folder.join(name).display().to_string(), problem: problem.to_string() }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Source for DirSource {
    type Bytes = Vec<u8>;

    fn id(&self) -> String {
        match &self.gguf {
            Some(name) => self.folder.join(name).display().to_string(),
            None => self.folder.display().to_string(),
        }
    }

    fn gguf(&self) -> Option<String> {
        self.gguf.clone()
    }

    async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
        match std::fs::metadata(self.folder.join(name)) {
            Ok(found) if found.is_file() => Ok(Some(FileMeta::new(name, found.len()))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io(name, e)),
        }
    }

    async fn read(
        &self,
        file: &FileMeta,
        range: Range<u64>,
        _attempt: usize,
        arrived: &dyn Fn(u64),
    ) -> Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let io = |e| self.io(&file.name, e);
        let mut from = std::fs::File::open(self.folder.join(&file.name)).map_err(io)?;
        from.seek(SeekFrom::Start(range.start)).map_err(io)?;
        let mut bytes = buffer::<Vec<u8>>(&file.name, range.end - range.start)?;
        from.read_exact(&mut bytes).map_err(io)?;
        arrived(bytes.len() as u64);
        Ok(bytes)
    }

    fn remote(&self) -> bool {
        false
    }

    fn local(&self) -> bool {
        true
    }
}

/// A buffer of `len` zeros, or the error that says that there is no memory for it.
pub(crate) fn buffer<B: Buffer>(file: &str, len: u64) -> Result<B> {
    usize::try_from(len)
        .ok()
        .and_then(B::zeroed)
        .ok_or_else(|| Error::checkpoint(file, format!("no memory for {len} bytes")))
}

/// Keeps nothing.
pub struct NoStore<B>(std::marker::PhantomData<B>);

impl<B> Default for NoStore<B> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<B: Buffer> Store for NoStore<B> {
    type Bytes = B;
    type Lock = ();

    async fn piece(&self, _key: &str, _hashed: bool) -> Result<Option<Stored<B>>> {
        Ok(None)
    }

    async fn present(&self, keys: &[String]) -> Result<Vec<bool>> {
        Ok(vec![false; keys.len()])
    }

    async fn put_piece(&self, _key: &str, _bytes: &B, _sha256: Digest) -> Result<()> {
        Ok(())
    }

    async fn delete_pieces(&self, _keys: &[String]) -> Result<()> {
        Ok(())
    }

    async fn records(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    async fn record(&self, _model: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn put_record(&self, _model: &str, _record: &str) -> Result<()> {
        Ok(())
    }

    async fn delete_record(&self, _model: &str) -> Result<()> {
        Ok(())
    }

    async fn collect(&self, _used: InUse<'_>) -> Result<usize> {
        Ok(0)
    }

    async fn free(&self) -> Option<u64> {
        None
    }

    async fn persisted(&self) -> bool {
        false
    }

    async fn lock(&self, _name: &str, _mode: LockMode, _wait: bool) -> Result<Option<()>> {
        Ok(Some(()))
    }
}
