//! Which tensor lies where in which file: read from a manifest, an index, or the files' own headers.

use super::digest::Digest;
use super::file::{FileMeta, PIECE};
use super::formats::{gguf, safetensors, torch};
use super::header::HeaderReader;
use super::source::Source;
use super::{Dtype, TensorInfo};
use crate::bytes::Buffer;
use crate::error::{Error, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// Name of our own list of files, hashes and tensors.
pub const MANIFEST: &str = "manifest.json";
/// Longest manifest or index that is read, in bytes.
const MAX_INDEX: u64 = 32 << 20;
const MANIFEST_FORMAT: &str = "mobilellm-weights";

/// One tensor and where its bytes start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorPlan {
    #[serde(flatten)]
    pub info: TensorInfo,
    /// Index into [`Plan::files`].
    pub file: usize,
    /// Offset of the first byte in the file.
    pub start: u64,
}

impl TensorPlan {
    pub fn end(&self) -> u64 {
        self.start + self.info.bytes()
    }
}

/// Bytes that the plan was read from: when they pass by as part of a verified piece they must be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Index into [`Plan::files`].
    pub file: usize,
    pub start: u64,
    pub end: u64,
    pub sha256: Digest,
}

/// The files of a checkpoint and the tensors in them, sorted by file and offset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub files: Vec<FileMeta>,
    pub tensors: Vec<TensorPlan>,
    /// Sorted by file and offset.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Files beside the weights whose hash is known (configuration, tokenizer).
    #[serde(default)]
    pub others: Vec<FileMeta>,
}

impl Plan {
    /// Plans the checkpoint in `source`: the GGUF that it names, or else manifest, sharded or single safetensors, or PyTorch's
    /// format, in this order. With the header of a GGUF, which holds what other checkpoints have in small files.
    pub async fn read<S: Source>(source: &S) -> Result<(Self, Option<gguf::Header>)> {
        match source.gguf() {
            Some(file) => Self::of_gguf(source, &file).await.map(|(plan, header)| (plan, Some(header))),
            None => Self::of_folder(source).await.map(|plan| (plan, None)),
        }
    }

    async fn of_gguf<S: Source>(source: &S, file: &str) -> Result<(Self, gguf::Header)> {
        let names = gguf::parts(file).unwrap_or_else(|| vec![file.to_owned()]);
        let (mut files, mut first) = (Vec::new(), None::<gguf::Header>);
        for (number, name) in names.iter().enumerate() {
            let found = source.stat(name).await?;
            let meta = found.ok_or_else(|| source.missing(name, &[name]))?;
            let reader = HeaderReader::new(source, &meta);
            let header = gguf::Header::read(&reader).await?;
            gguf::check_part(&header, number, names.len())?;
            files.push(FileTensors { tensors: gguf::tensors(&header)?, read: reader.into_read(), meta });
            match &mut first {
                // The first part speaks for the whole: also for what lies in the others.
                Some(first) => first.tensors.extend(header.tensors),
                None => first = Some(header),
            }
        }
        let header = first.ok_or_else(|| Error::internal("a GGUF of no parts"))?;
        gguf::check_total(&header, files.iter().map(|f| f.tensors.len()).sum())?;
        Self::assemble(files, Vec::new()).map(|plan| (plan, header))
    }

    async fn of_folder<S: Source>(source: &S) -> Result<Self> {
        if let Some(manifest) = source.read_all(MANIFEST, MAX_INDEX).await?
            && let Some(plan) = Self::from_manifest(&manifest.to_vec())?
        {
            // One that lists more than the weights lists everything.
            if plan.others.iter().any(|file| file.name == "config.json") {
                source.listed(&plan.others.iter().map(|file| file.name.clone()).collect::<Vec<_>>());
            }
            return Ok(plan);
        }
        Self::of_weights(source).await
    }

    /// The same from the weight files alone.
    pub(super) async fn of_weights<S: Source>(source: &S) -> Result<Self> {
        for whole in ["model.safetensors", "pytorch_model.bin"] {
            let index = format!("{whole}.index.json");
            if let Some(bytes) = source.read_all(&index, MAX_INDEX).await? {
                return Self::from_index(source, &index, &bytes.to_vec()).await;
            }
            if let Some(file) = source.stat(whole).await? {
                return Self::assemble(vec![file_tensors(source, file).await?], Vec::new());
            }
        }
        let what = "model.safetensors (or pytorch_model.bin, or the name of a .gguf file)";
        Err(source.missing(what, &["model.safetensors", "pytorch_model.bin"]))
    }

    /// Every tensor's description, in plan order.
    pub fn infos(&self) -> Vec<TensorInfo> {
        self.tensors.iter().map(|t| t.info.clone()).collect()
    }

    fn assemble(files: Vec<FileTensors>, others: Vec<FileMeta>) -> Result<Self> {
        let mut plan = Self { others, ..Self::default() };
        for (file, FileTensors { meta, tensors, read }) in files.into_iter().enumerate() {
            plan.files.push(meta);
            plan.tensors.extend(tensors.into_iter().map(|(info, start)| TensorPlan { info, file, start }));
            plan.checks.extend(read.into_iter().map(|(range, sha256)| {
                let Range { start, end } = range;
                Check { file, start, end, sha256 }
            }));
        }
        let mut seen = HashMap::new();
        for tensor in &plan.tensors {
            if let Some(first) = seen.insert(&tensor.info.name, tensor.file) {
                let (a, b) = (&plan.files[first].name, &plan.files[tensor.file].name);
                return Err(Error::tensor(&tensor.info.name, format!("is in {a} and in {b}")));
            }
        }
        Ok(plan)
    }

    async fn from_index<S: Source>(source: &S, index: &str, text: &[u8]) -> Result<Self> {
        let shards = parse_index(index, text)?;
        let files: Vec<_> = stream::iter(&shards)
            .map(async |(name, promised)| {
                let file = source.stat(name).await?.ok_or_else(|| source.missing(name, &[name]))?;
                let file = file_tensors(source, file).await?;
                let found: HashSet<_> = file.tensors.iter().map(|(t, _)| t.name.as_str()).collect();
                if let Some(missing) = promised.iter().find(|t| !found.contains(t.as_str())) {
                    return Err(Error::tensor(missing, format!("{index} places it in {name}, which does not hold it")));
                }
                if let Some((extra, _)) = file.tensors.iter().find(|(t, _)| !promised.contains(&t.name)) {
                    return Err(Error::tensor(&extra.name, format!("is in {name}, but {index} does not say so")));
                }
                Ok(file)
            })
            .buffered(8)
            .try_collect()
            .await?;
        Self::assemble(files, Vec::new())
    }

    /// `None` if this is some other program's `manifest.json`.
    pub(super) fn from_manifest(text: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u64,
        }
        match serde_json::from_slice::<Kind>(text) {
            Ok(Kind { format, version: 1 }) if format == MANIFEST_FORMAT => {}
            Ok(Kind { format, version }) if format == MANIFEST_FORMAT => {
                return Err(Error::unsupported(MANIFEST, format!("version {version} is not 1")));
            }
            // Cut off or damaged: without it nothing could be verified.
            Err(e) if !e.is_data() => return Err(Error::checkpoint(MANIFEST, e)),
            _ => return Ok(None),
        }
        let refuse = |problem: String| Err(Error::checkpoint(MANIFEST, problem));
        let manifest: Manifest = match serde_json::from_slice(text) {
            Ok(manifest) => manifest,
            Err(e) => return refuse(e.to_string()),
        };
        if manifest.piece_size != PIECE {
            return refuse(format!("piece_size {} is not {PIECE}", manifest.piece_size));
        }
        let mut files = Vec::<FileTensors>::new();
        for file in manifest.files {
            check_name(MANIFEST, &file.name)?;
            let pieces = if file.size > PIECE { file.size.div_ceil(PIECE) } else { 0 };
            if file.pieces.len() as u64 != pieces {
                return refuse(format!("{}: {} piece hashes, not {pieces}", file.name, file.pieces.len()));
            }
            if files.iter().any(|f| f.meta.name == file.name) {
                return refuse(format!("{} is listed twice", file.name));
            }
            let meta =
                FileMeta { sha256: Some(file.sha256), pieces: file.pieces, ..FileMeta::new(&file.name, file.size) };
            files.push(FileTensors { meta, tensors: Vec::new(), read: Vec::new() });
        }
        for t in manifest.tensors {
            let Some(info) = TensorInfo::checked(t.name.clone(), t.dtype, &t.shape) else {
                return refuse(format!("tensor {}: shape {:?} overflows", t.name, t.shape));
            };
            let Some(file) = files.iter_mut().find(|f| f.meta.name == t.file) else {
                return refuse(format!("tensor {}: {} is not listed", t.name, t.file));
            };
            if t.start.checked_add(info.bytes()).is_none_or(|end| end > file.meta.size) {
                return refuse(format!("tensor {}: reaches beyond the end of {}", t.name, t.file));
            }
            file.tensors.push((info, t.start));
        }
        for FileTensors { tensors, .. } in &mut files {
            tensors.sort_by_key(|(info, start)| (*start, info.bytes()));
            if let Some(two) = tensors.windows(2).find(|two| two[0].1 + two[0].0.bytes() > two[1].1) {
                return refuse(format!("tensor {}: overlaps the tensor before it", two[1].0.name));
            }
        }
        let (files, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| !f.tensors.is_empty());
        Self::assemble(files, others.into_iter().map(|f| f.meta).collect()).map(Some)
    }

    /// The manifest that this plan is read back from; every file needs its hashes.
    pub fn to_manifest(&self) -> Result<String> {
        let files = self.files.iter().chain(&self.others);
        let manifest = Manifest {
            format: MANIFEST_FORMAT.into(),
            version: 1,
            piece_size: PIECE,
            files: files
                .map(|f| {
                    let sha256 = f.sha256.ok_or_else(|| Error::internal(format!("{} has no hash", f.name)))?;
                    Ok(ManifestFile { name: f.name.clone(), size: f.size, sha256, pieces: f.pieces.clone() })
                })
                .collect::<Result<_>>()?,
            tensors: self
                .tensors
                .iter()
                .map(|t| ManifestTensor {
                    name: t.info.name.clone(),
                    dtype: t.info.dtype,
                    shape: t.info.shape.iter().map(|&d| d as u64).collect(),
                    file: self.files[t.file].name.clone(),
                    start: t.start,
                })
                .collect(),
        };
        serde_json::to_string_pretty(&manifest).map_err(Error::internal)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    version: u64,
    piece_size: u64,
    files: Vec<ManifestFile>,
    tensors: Vec<ManifestTensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    name: String,
    size: u64,
    sha256: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    file: String,
    start: u64,
}

/// One weight file, with its tensors and the bytes that tell of them.
struct FileTensors {
    meta: FileMeta,
    tensors: Vec<(TensorInfo, u64)>,
    read: Vec<(Range<u64>, Digest)>,
}

async fn file_tensors<S: Source>(source: &S, meta: FileMeta) -> Result<FileTensors> {
    let reader = HeaderReader::new(source, &meta);
    let tensors = match meta.name.ends_with(".bin") {
        true => torch::tensors(&reader).await?,
        false => safetensors::tensors(&reader).await?,
    };
    let read = reader.into_read();
    Ok(FileTensors { meta, tensors, read })
}

/// `weight_map` of an index, turned around: the tensors promised to be in each shard.
fn parse_index(index: &str, text: &[u8]) -> Result<BTreeMap<String, BTreeSet<String>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(text).map_err(|e| Error::checkpoint(index, e))?;
    let mut shards = BTreeMap::<_, BTreeSet<_>>::new();
    for (tensor, shard) in weight_map {
        check_name(index, &shard)?;
        shards.entry(shard).or_default().insert(tensor);
    }
    if shards.is_empty() {
        return Err(Error::checkpoint(index, "weight_map is empty"));
    }
    Ok(shards)
}

/// Refuses a file name that could lead out of the model's folder.
fn check_name(index: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::checkpoint(index, format!("{name:?} is not a plain file name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INDEX: &str = r#"{"metadata":{"total_size":12},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;

    fn manifest() -> String {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let long = 2 * PIECE + 5;
        format!(
            r#"{{"format":"mobilellm-weights","version":1,"piece_size":{PIECE},"files":[
            {{"name":"m-1.safetensors","size":{long},"sha256":"{one}","pieces":["{one}","{other}","{one}"]}},
            {{"name":"m-2.safetensors","size":40,"sha256":"{other}"}},{{"name":"config.json","size":9,"sha256":"{one}"}}],"tensors":[
            {{"name":"a","dtype":"F16","shape":[2,3],"file":"m-1.safetensors","start":8}},
            {{"name":"b","dtype":"F32","shape":[4],"file":"m-2.safetensors","start":24}},
            {{"name":"c","dtype":"Bf16","shape":[],"file":"m-1.safetensors","start":20}}]}}"#
        )
    }

    /// Bytes overwritten, put in, taken out, cut off; digits also by others, so that the text often stays JSON.
    fn damaged(text: &str, damage: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, kind) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = *byte,
                1 => bytes.insert(at, *byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                3 if *byte < 16 => bytes.truncate(at.max(1)),
                4 => bytes[at] = b'"',
                _ => bytes
                    .iter_mut()
                    .skip(at)
                    .find(|b| b.is_ascii_digit())
                    .into_iter()
                    .for_each(|b| *b = b'0' + byte % 10),
            }
        }
        bytes
    }

    fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..9), 0..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn hostile_manifests(damage in damage()) {
            match Plan::from_manifest(&damaged(&manifest(), &damage)) {
                Ok(None) => {}
                Ok(Some(plan)) => {
                    for tensor in &plan.tensors {
                        prop_assert!(tensor.end() <= plan.files[tensor.file].size);
                    }
                    for file in plan.files.iter().chain(&plan.others) {
                        prop_assert!(check_name(MANIFEST, &file.name).is_ok());
                        prop_assert!(file.size <= PIECE || file.pieces.len() as u64 == file.size.div_ceil(PIECE));
                    }
                    prop_assert_eq!(Plan::from_manifest(plan.to_manifest().unwrap().as_bytes()).unwrap(), Some(plan));
                }
                Err(error) => prop_assert!(matches!(error, Error::Checkpoint { .. } | Error::Tensor { .. } | Error::Unsupported { .. }), "{:?}", error),
            }
        }

        #[test]
        fn hostile_indexes(damage in damage()) {
            match parse_index("index", &damaged(INDEX, &damage)) {
                Ok(shards) => {
                    for name in shards.keys() {
                        prop_assert!(!name.contains(['/', '\\', '%', ':']) && !name.starts_with('.'), "{}", name);
                    }
                }
                Err(error) => prop_assert!(matches!(error, Error::Checkpoint { .. }), "{:?}", error),
            }
        }

        #[test]
        fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (plan, index) = (Plan::from_manifest(&bytes), parse_index("index", &bytes));
            prop_assert!(matches!(plan, Ok(None) | Err(Error::Checkpoint { .. })), "manifest");
            prop_assert!(matches!(index, Err(Error::Checkpoint { .. })), "index");
        }
    }

    #[test]
    fn undamaged() {
        assert_eq!(Plan::from_manifest(manifest().as_bytes()).unwrap().unwrap().tensors.len(), 3);
        assert_eq!(parse_index("index", INDEX.as_bytes()).unwrap().len(), 2);
    }
}
