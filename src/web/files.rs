//! The user's own files: chosen, dropped, or from a directory handle.

use super::bytes::JsBytes;
use super::host::message;
use crate::error::{Error, Result};
use crate::weights::Source;
use crate::weights::file::FileMeta;
use crate::weights::formats::gguf;
use js_sys::{Array, Reflect, Uint8Array};
use std::ops::Range;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

/// A model in `File`s (or any other `Blob`s). Nothing of it is stored: it is there already.
pub struct FilesSource {
    files: Vec<(String, Blob)>,
    gguf: Option<String>,
}

impl FilesSource {
    /// From an array of `{ path: string, file: Blob }`. Folders above the files do not matter.
    pub fn new(files: &Array) -> Result<Self> {
        let one = |entry: JsValue| {
            let field = |name: &str| Reflect::get(&entry, &name.into()).ok();
            field("path")?.as_string().zip(field("file")?.dyn_into().ok())
        };
        let files: Option<Vec<_>> = files.iter().map(one).collect();
        let files: Vec<(String, Blob)> =
            files.ok_or_else(|| Error::option("source", "not a list of { path, file }"))?;
        let names = || files.iter().filter_map(|(path, _)| path.rsplit('/').next());
        let mut ggufs: Vec<&str> = names().filter(|name| name.ends_with(".gguf")).collect();
        ggufs.sort_unstable();
        let gguf = match ggufs.as_slice() {
            [] => None,
            // Beside the files of a checkpoint in Hugging Face layout it is none of them.
            _ if names().any(|name| name == "config.json") => None,
            [first, ..] if ggufs.len() == 1 || gguf::parts(first).is_some_and(|parts| parts == ggufs) => {
                Some((*first).to_owned())
            }
            _ => return Err(Error::option("source", format!("which of these GGUF files? {}", ggufs.join(", ")))),
        };
        Ok(Self { files, gguf })
    }

    /// The file of this name that lies least deep.
    fn find(&self, name: &str) -> Option<&Blob> {
        let named = self.files.iter().filter(|(path, _)| path.rsplit('/').next() == Some(name));
        named.min_by_key(|(path, _)| path.matches('/').count()).map(|(_, file)| file)
    }
}

impl Source for FilesSource {
    type Bytes = JsBytes;

    fn id(&self) -> String {
        if let Some(gguf) = &self.gguf {
            return gguf.clone();
        }
        let folder =
            self.files.first().and_then(|(path, _)| path.rsplit_once('/')).map_or("local files", |(folder, _)| folder);
        folder.into()
    }

    fn gguf(&self) -> Option<String> {
        self.gguf.clone()
    }

    async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
        Ok(self.find(name).map(|file| FileMeta::new(name, file.size() as u64)))
    }

    async fn read(
        &self,
        file: &FileMeta,
        range: Range<u64>,
        _attempt: usize,
        arrived: &dyn Fn(u64),
    ) -> Result<JsBytes> {
        let io = |problem: String| Error::Io { path: file.name.clone(), problem };
        let blob = self.find(&file.name).ok_or_else(|| io("the file is gone".into()))?;
        let part = blob.slice_with_f64_and_f64(range.start as f64, range.end as f64).map_err(|e| io(message(&e)))?;
        let buffer = JsFuture::from(part.array_buffer()).await.map_err(|e| io(message(&e)))?;
        let bytes = Uint8Array::new(&buffer);
        let len = range.end - range.start;
        if u64::from(bytes.length()) != len {
            return Err(io(format!("{} bytes where {len} were expected: the file changed", bytes.length())));
        }
        arrived(len);
        Ok(JsBytes(bytes))
    }

    fn remote(&self) -> bool {
        false
    }

    fn local(&self) -> bool {
        true
    }
}
