//! Thin glue between [`crate::engine`] and the worker of `js/`, which owns one [`Engine`] and makes one call at a time.
//!
//! Requests and results are plain JavaScript objects, whose types [`crate::protocol`] gives to TypeScript; conversations come as JSON
//! text, whose key order and numbers survive. Errors are thrown as [`crate::protocol::Thrown`].

use super::bytes::JsBytes;
use super::exchange;
use super::fetch::{UrlSource, WebHttp};
use super::files::FilesSource;
use super::host::WebHost;
use super::js::{Js, from_js, from_json, to_js};
use super::store::{IdbStore, PieceReader, WebLock};
use crate::backend::cpu::Cpu;
use crate::backend::{Packing, Precision};
use crate::bytes::{Buffer, Bytes};
use crate::config::Config;
use crate::engine::{self, DeviceChoice, OpenOptions, SelfCheck};
use crate::error::{Error, Result};
use crate::packed::GROUP;
use crate::protocol::{CacheChoice, EngineRequest, Estimate, EstimateRequest, ResolvedSource, SourceRequest};
use crate::text::{ChatInput, TOOL_TEMPLATE};
use crate::weights::checkpoint::{self, Checkpoint};
use crate::weights::file::FileMeta;
use crate::weights::progress;
use crate::weights::verify::Verify;
use crate::weights::{Host, Source, TensorInfo, TensorSink, models};
use js_sys::{Array, Date, Function, Reflect};
use std::cell::RefCell;
use std::ops::Range;
use wasm_bindgen::prelude::*;

const HUB: &str = "https://huggingface.co";

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Has `callback` called with the message of a panic, after which nothing here may be called again.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(callback: Function) {
    ON_PANIC.set(Some(callback));
    std::panic::set_hook(Box::new(|info| {
        console_error_panic_hook::hook(info);
        ON_PANIC.with_borrow(|callback| {
            if let Some(callback) = callback {
                // A throwing callback cannot be helped: this is the end anyway.
                let _ = callback.call1(&JsValue::NULL, &info.to_string().into());
            }
        });
    }));
}

/// What the results and arguments below are to TypeScript.
#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = "import type {
    Availability, EngineEstimate, EngineEvent, EngineInfo, EngineRequest, EstimateRequest, GenerateRequest, LoadEvent, LoadReport, ModelRecord,
    Score, SourceRequest,
} from '../../../js/generated.js';
import type { Exchange } from '../../../js/threads.js';
import type { PieceReader } from '../../../js/pieces.js';";

/// A request's source, with the files that serde cannot carry.
#[derive(Clone)]
struct Asked {
    request: SourceRequest,
    /// Of [`ResolvedSource::Files`]: `{ path, file }` objects.
    files: Array,
}

type WebCheckpoint = Checkpoint<WebHost, WebSource, IdbStore>;

impl Asked {
    fn source(&self) -> Result<WebSource> {
        let SourceRequest { source, revision, token, mirrors, cache } = &self.request;
        let token = token.clone();
        let origin = match source {
            ResolvedSource::Url { url } => {
                Origin::Http(Box::new(UrlSource::folder(WebHttp, WebHost, url, token, mirrors)?))
            }
            ResolvedSource::Hub { id, revision: own } => {
                let revision = own.as_ref().unwrap_or(revision);
                Origin::Http(Box::new(UrlSource::hub(WebHttp, WebHost, HUB, id, revision, token, mirrors)?))
            }
            ResolvedSource::Files { .. } => Origin::Files(FilesSource::new(&self.files)?),
        };
        Ok(WebSource { origin, keep: *cache == CacheChoice::IndexedDb })
    }

    fn new(request: &JsValue) -> Result<Self> {
        let get = |from: &JsValue, name: &str| Reflect::get(from, &name.into()).unwrap_or_default();
        let files = get(&get(request, "source"), "files").dyn_into().unwrap_or_default();
        Ok(Asked { files, request: from_js(request.clone())? })
    }

    async fn checkpoint(
        &self,
        verify: Verify,
        reader: Option<PieceReader>,
        on_event: impl Fn(progress::Event) + 'static,
    ) -> Result<WebCheckpoint> {
        let options = checkpoint::Options { verify, ..checkpoint::Options::default() };
        Checkpoint::open(WebHost, self.source()?, IdbStore::new(reader), options, on_event).await
    }
}

/// Whatever the files are in; `keep`: whether a copy is to be stored.
struct WebSource {
    origin: Origin,
    keep: bool,
}

enum Origin {
    Http(Box<UrlSource>),
    Files(FilesSource),
}

macro_rules! each {
    ($source:expr, $inner:ident => $result:expr) => {
        match &$source.origin {
            Origin::Http($inner) => $result,
            Origin::Files($inner) => $result,
        }
    };
}

impl Source for WebSource {
    type Bytes = JsBytes;

    fn id(&self) -> String {
        each!(self, s => s.id())
    }

    fn gguf(&self) -> Option<String> {
        each!(self, s => s.gguf())
    }

    async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
        each!(self, s => s.stat(name).await)
    }

    async fn read(&self, file: &FileMeta, range: Range<u64>, attempt: usize, on: &dyn Fn(u64)) -> Result<JsBytes> {
        each!(self, s => s.read(file, range, attempt, on).await)
    }

    async fn read_all(&self, name: &str, limit: u64) -> Result<Option<JsBytes>> {
        each!(self, s => s.read_all(name, limit).await)
    }

    fn ranged(&self, file: &FileMeta) -> bool {
        each!(self, s => s.ranged(file))
    }

    fn forget(&self) {
        each!(self, s => s.forget());
    }

    fn missing(&self, file: &str, names: &[&str]) -> Error {
        each!(self, s => s.missing(file, names))
    }

    fn listed(&self, names: &[String]) {
        each!(self, s => s.listed(names));
    }

    fn commit(&self) -> Option<String> {
        each!(self, s => s.commit())
    }

    fn pin(&self, commit: &str) {
        each!(self, s => s.pin(commit))
    }

    fn remote(&self) -> bool {
        self.keep && each!(self, s => s.remote())
    }

    fn local(&self) -> bool {
        each!(self, s => s.local())
    }
}

/// How a model could be loaded now: `cached`, `partial`, `downloadable` or `unavailable`.
#[wasm_bindgen(unchecked_return_type = "Availability")]
pub async fn availability(#[wasm_bindgen(unchecked_param_type = "SourceRequest")] request: JsValue) -> Js<JsValue> {
    let request = Asked::new(&request)?;
    to_js(&models::availability(WebHost, request.source()?, IdbStore::default()).await?)
}

/// What loading a model would take, in bytes; only its small files and headers are read.
#[wasm_bindgen(unchecked_return_type = "EngineEstimate")]
pub async fn estimate(
    #[wasm_bindgen(unchecked_param_type = "SourceRequest & EstimateRequest")] request: JsValue,
) -> Js<JsValue> {
    let checkpoint = Asked::new(&request)?.checkpoint(Verify::default(), None, |_| {}).await?;
    let request: EstimateRequest = from_js(request)?;
    let config = engine::config(&checkpoint).await?;
    let context = engine::context_length(&config, request.context_length)? as u64;
    let sizes = checkpoint.sizes().await;
    let remote = checkpoint.source().remote(); // else nothing is fetched or stored
    // Keys and values: on the GPU f32 and f16; on the CPU f32, beside weights in groups f16.
    let cached = context * (config.order().len() * config.kv_width()) as u64;
    let precision = request.dtype.unwrap_or_else(|| engine::nearest_precision(&checkpoint));
    let tables = (config.vocab_size * config.hidden_size * if config.tied { 1 } else { 2 }) as u64;
    let bytes = |weights: u64, packing: Packing| weights / GROUP as u64 * packing.row_bytes(GROUP) as u64;
    let held = bytes(tables, precision.of_tables()) + bytes(config.parameters() - tables, precision.of_blocks());
    let cpu_pair = if precision == Precision::F16 { 8 } else { 4 };
    to_js(&Estimate {
        download_bytes: if remote { sizes.missing_bytes } else { 0 },
        disk_bytes: if remote { sizes.total_bytes } else { 0 },
        gpu_bytes: held + cached * 6,
        cpu_bytes: held + cached * cpu_pair,
        free_bytes: sizes.free_bytes,
    })
}

/// Loads a model into nothing, for the benchmark of network and storage: gives the milliseconds from plan to last verified byte,
/// and what was read.
#[wasm_bindgen(js_name = loadIntoNothing, unchecked_return_type = "[number, LoadReport]")]
pub async fn load_into_nothing(
    #[wasm_bindgen(unchecked_param_type = "SourceRequest")] request: JsValue,
) -> Js<JsValue> {
    struct Nothing;
    impl TensorSink for Nothing {
        fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
            Ok(vec![true; tensors.len()])
        }

        fn write(&mut self, _: usize, _: u64, _: &dyn Bytes) -> Result<()> {
            Ok(())
        }
    }
    let checkpoint = Asked::new(&request)?.checkpoint(Verify::Always, None, |_| {}).await?;
    let start = WebHost.now();
    let report = checkpoint.load(&mut Nothing).await?;
    to_js(&(WebHost.now() - start, report))
}

/// The models in the store.
#[wasm_bindgen(js_name = listModels, unchecked_return_type = "ModelRecord[]")]
pub async fn list_models() -> Js<JsValue> {
    to_js(&models::list(&IdbStore::default()).await?)
}

#[wasm_bindgen(js_name = deleteModel)]
pub async fn delete_model(#[wasm_bindgen(unchecked_param_type = "SourceRequest")] request: JsValue) -> Js<()> {
    let request = Asked::new(&request)?;
    Ok(models::delete(&IdbStore::default(), &request.source()?.id()).await?)
}

/// A loaded model.
#[wasm_bindgen]
pub struct Engine {
    inner: engine::Engine,
    info: engine::Info,
    source: Asked,
    options: EngineRequest,
    on_event: Function,
    start_threads: Option<Function>,
    /// While it lives, the stored copy cannot be deleted.
    _in_use: Option<WebLock>,
}

#[wasm_bindgen]
impl Engine {
    /// Loads a model. `on_event` hears what [`progress::Event`] says; `start_threads` is that of [`super::exchange::cpu`],
    /// `reader` that of [`IdbStore`].
    pub async fn load(
        #[wasm_bindgen(unchecked_param_type = "SourceRequest & EngineRequest")] request: JsValue,
        #[wasm_bindgen(unchecked_param_type = "(event: LoadEvent) => void")] on_event: Function,
        #[wasm_bindgen(
            unchecked_optional_param_type = "(words: number, config: string, precision: string, count: number) => Promise<Exchange | null>"
        )]
        start_threads: Option<Function>,
        #[wasm_bindgen(unchecked_optional_param_type = "PieceReader")] reader: Option<PieceReader>,
    ) -> Js<Engine> {
        let source = Asked::new(&request)?;
        let mut options: EngineRequest = from_js(request)?;
        let checkpoint = source.checkpoint(options.verify, reader, teller(&on_event)).await?;
        options.dtype.get_or_insert_with(|| engine::nearest_precision(&checkpoint));
        let (inner, info) =
            engine::Engine::open(&checkpoint, &options.open(), options.cpu(start_threads.as_ref())).await?;
        let _in_use = checkpoint.into_lease();
        Ok(Engine { inner, info, source, options, on_event, start_threads, _in_use })
    }

    /// Loads the model again after its GPU device was lost, on the GPU or (`cpu`) on the CPU: sessions stay open and the answer
    /// under way goes on.
    pub async fn recover(&mut self, cpu: bool) -> Js<()> {
        if cpu {
            self.options.device = DeviceChoice::Cpu;
        }
        let checkpoint = self.source.checkpoint(self.options.verify, None, teller(&self.on_event)).await?;
        self.info = self
            .inner
            .recover(&checkpoint, &self.options.open(), self.options.cpu(self.start_threads.as_ref()))
            .await?;
        Ok(())
    }

    /// Why the GPU device was lost, once it was.
    #[wasm_bindgen(js_name = deviceLost)]
    pub fn device_lost(&mut self) -> Option<String> {
        self.inner.device_lost()
    }

    /// Whether texts cannot be encoded before `installSplitter` and [`open_splitter`](Self::open_splitter) were called.
    #[wasm_bindgen(getter, js_name = needsSplitter)]
    pub fn needs_splitter(&self) -> bool {
        self.inner.text().needs_part()
    }

    #[wasm_bindgen(js_name = openSplitter)]
    pub fn open_splitter(&self) -> Js<()> {
        Ok(self.inner.text().open_part()?)
    }

    #[wasm_bindgen(unchecked_return_type = "EngineInfo")]
    pub fn info(&self) -> Js<JsValue> {
        to_js(&self.info)
    }

    /// CPU threads that compute now, and why so many; null on the GPU.
    #[wasm_bindgen(unchecked_return_type = "[number, string] | null")]
    pub fn threads(&mut self) -> Js<JsValue> {
        to_js(&self.inner.threads())
    }

    #[wasm_bindgen(js_name = openSession)]
    pub fn open_session(&mut self) -> Js<u32> {
        Ok(self.inner.open_session(self.info.context_length)?)
    }

    #[wasm_bindgen(js_name = forkSession)]
    pub fn fork_session(&mut self, session: u32) -> Js<u32> {
        Ok(self.inner.fork_session(session)?)
    }

    #[wasm_bindgen(js_name = closeSession)]
    pub fn close_session(&mut self, session: u32) {
        self.inner.close_session(session);
    }

    /// Tokens whose keys and values a session holds.
    #[wasm_bindgen(js_name = sessionTokens)]
    pub fn session_tokens(&self, session: u32) -> Js<usize> {
        Ok(self.inner.session_tokens(session)?.len())
    }

    /// Ids of a plain prompt, BOS included where the model is used to it; `special`: special tokens in it are read as such.
    #[wasm_bindgen(js_name = encodePrompt)]
    pub fn encode_prompt(&self, text: &str, special: bool) -> Js<Vec<u32>> {
        Ok(self.inner.text().encode_prompt(text, special)?)
    }

    /// Whether a text has the text of a special token in it.
    #[wasm_bindgen(js_name = spellsOutSpecial)]
    pub fn spells_out_special(&self, text: &str) -> bool {
        self.inner.text().tokenizer().spells_out_control(text)
    }

    /// Looks for the model's template for conversations with tools, if nobody did: at most one request. A file that cannot be had
    /// counts as absent.
    #[wasm_bindgen(js_name = findToolTemplate)]
    pub async fn find_tool_template(&self) -> Js<()> {
        let text = self.inner.text().clone();
        if !text.wants_tool_template() {
            return Ok(());
        }
        let found = match self.options.cache {
            CacheChoice::IndexedDb => {
                let checkpoint = self.source.checkpoint(self.options.verify, None, |_| {}).await?;
                checkpoint.file(TOOL_TEMPLATE).await.ok().flatten()
            }
            CacheChoice::None => {
                let found = self.source.source()?.read_all(TOOL_TEMPLATE, 1 << 20).await;
                found.ok().flatten().map(|bytes| bytes.to_vec())
            }
        };
        if let Some(source) = found.and_then(|bytes| String::from_utf8(bytes).ok()) {
            text.add_tool_template(&source)?;
        }
        Ok(())
    }

    /// Throws where no conversation is possible, whatever is said: there is no template, or it does not parse.
    #[wasm_bindgen(js_name = checkTemplate)]
    pub fn check_template(&self, template: Option<String>, tools: bool) -> Js<()> {
        Ok(self.inner.text().check_template(template.as_deref(), tools)?)
    }

    /// Ids of a conversation: `messages` and `tools` are JSON arrays as Hugging Face's templates know them, `template` replaces
    /// the model's own, `answer` ends with the beginning of the assistant's turn.
    #[wasm_bindgen(js_name = encodeChat)]
    pub fn encode_chat(
        &self,
        messages: &str,
        tools: Option<String>,
        template: Option<String>,
        answer: bool,
    ) -> Js<Vec<u32>> {
        let messages: Vec<serde_json::Value> = from_json(messages)?;
        let tools: Option<Vec<serde_json::Value>> = tools.as_deref().map(from_json).transpose()?;
        let now = Date::new_0();
        let chat = ChatInput {
            messages: &messages,
            tools: tools.as_deref(),
            add_generation_prompt: answer,
            now: Some((now.get_time() / 1e3 - now.get_timezone_offset() * 60.0) as i64),
            ..ChatInput::default()
        };
        Ok(self.inner.text().encode_chat_with(template.as_deref(), &chat)?)
    }

    /// Ids of a text alone, without BOS; `special`: special tokens in it are read as such.
    pub fn tokenize(&self, text: &str, special: bool) -> Js<Vec<u32>> {
        Ok(self.inner.text().encode_text(text, special)?)
    }

    pub fn detokenize(&self, ids: &[u32], control: bool) -> String {
        self.inner.text().tokenizer().decode(ids, control)
    }

    /// Starts an answer; `options` are [`engine::Options`], of which those that are missing have their defaults.
    pub fn begin(
        &mut self,
        session: u32,
        prompt: &[u32],
        #[wasm_bindgen(unchecked_param_type = "Partial<GenerateRequest>")] options: JsValue,
    ) -> Js<()> {
        let options: engine::Options = from_js(options)?;
        Ok(self.inner.begin(session, prompt, &options)?)
    }

    /// The next [`engine::Event`] of the answer.
    #[wasm_bindgen(unchecked_return_type = "EngineEvent")]
    pub async fn next(&mut self) -> Js<JsValue> {
        to_js(&self.inner.next().await?)
    }

    /// Ends the answer where it is, with its [`engine::Event::Done`].
    #[wasm_bindgen(unchecked_return_type = "EngineEvent")]
    pub fn interrupt(&mut self) -> Js<JsValue> {
        to_js(&self.inner.interrupt()?)
    }

    /// [`engine::Score`]s of continuations of one context.
    #[wasm_bindgen(unchecked_return_type = "Score[]")]
    pub async fn score(&mut self, context: &str, continuations: Vec<String>, special: bool) -> Js<JsValue> {
        let text = self.inner.text().clone();
        let alone = text.encode_prompt(context, special)?;
        let mut sequences = Vec::with_capacity(continuations.len());
        for continuation in &continuations {
            let ids = text.encode_prompt(&format!("{context}{continuation}"), special)?;
            // Where a token spans the border, it belongs to the continuation.
            let split = alone.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            sequences.push((ids, split));
        }
        to_js(&self.inner.score(&sequences).await?)
    }
}

fn teller(on_event: &Function) -> impl Fn(progress::Event) + use<> {
    let on_event = on_event.clone();
    move |event| {
        if let Ok(event) = to_js(&event) {
            // What the listener throws is its own matter.
            let _ = on_event.call1(&JsValue::NULL, &event);
        }
    }
}

impl EngineRequest {
    fn open(&self) -> OpenOptions {
        let self_check = match (self.self_check, self.cache) {
            (false, _) => SelfCheck::Never,
            (true, CacheChoice::None) => SelfCheck::Always,
            (true, CacheChoice::IndexedDb) => SelfCheck::Once { environment: self.environment.clone() },
        };
        OpenOptions {
            device: self.device,
            context_length: self.context_length,
            precision: self.dtype.unwrap_or_default(),
            self_check,
            gpu_budget_ms: self.gpu_budget_ms,
            ..OpenOptions::default()
        }
    }

    fn cpu(&self, start: Option<&Function>) -> impl AsyncFnOnce(&Config) -> Result<Cpu> {
        let precision = self.dtype.unwrap_or_default();
        let chosen = self.threads.is_some();
        async move |config: &Config| exchange::cpu(config, precision, start, chosen).await
    }
}
