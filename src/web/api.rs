//! Thin glue between [`crate::engine`] and the worker of `js/`, which owns one [`Engine`] and makes one call at a time.
//!
//! Requests and results are plain JavaScript objects (`js/protocol.ts`); conversations come as JSON text, whose key order and
//! numbers survive. Errors are thrown as `{ code, message, remedy }`.

use super::bytes::JsBytes;
use super::fetch::{UrlSource, WebHttp};
use super::host::WebHost;
use crate::backend::Precision;
use crate::backend::cpu::Cpu;
use crate::engine::{self, DeviceChoice, OpenOptions};
use crate::error::{Error, Result};
use crate::tokenizer::ChatInput;
use crate::weights::checkpoint::{self, Checkpoint};
use crate::weights::{NoStore, Source, Store};
use js_sys::{Date, Function};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_wasm_bindgen::Serializer;
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

const HUB: &str = "https://huggingface.co";

pub(super) type Js<T> = std::result::Result<T, JsValue>;

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        #[derive(Serialize)]
        struct Thrown<'a> {
            code: &'a str,
            message: String,
            remedy: &'a str,
        }
        let thrown = Thrown { code: error.code(), message: error.to_string(), remedy: error.remedy() };
        to_js(&thrown).unwrap_or_else(|_| JsValue::from_str(&thrown.message))
    }
}

pub(super) fn to_js(value: &impl Serialize) -> Js<JsValue> {
    value.serialize(&Serializer::json_compatible()).map_err(|e| Error::internal(e).into())
}

fn from_js<T: DeserializeOwned>(value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value).map_err(Error::internal)
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(Error::internal)
}

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

/// `ResolvedSource` of the protocol.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Place {
    Url { url: String },
    Hub { id: String },
}

/// `LoadRequest` of the protocol.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoadRequest {
    source: Place,
    revision: String,
    token: Option<String>,
    mirrors: Vec<String>,
    device: DeviceChoice,
    context_length: Option<usize>,
}

impl LoadRequest {
    fn source(&self) -> Result<UrlSource> {
        let token = self.token.clone();
        match &self.source {
            Place::Url { url } => UrlSource::folder(WebHttp, WebHost, url, token, &self.mirrors),
            Place::Hub { id } => UrlSource::hub(WebHttp, WebHost, HUB, id, &self.revision, token, &self.mirrors),
        }
    }
}

/// A loaded model.
#[wasm_bindgen]
pub struct Engine {
    inner: engine::Engine,
    info: engine::Info,
}

#[wasm_bindgen]
impl Engine {
    /// Loads a model. `on_event` hears what [`checkpoint::Event`] says.
    pub async fn load(
        #[wasm_bindgen(unchecked_param_type = "object")] request: JsValue,
        #[wasm_bindgen(unchecked_param_type = "(event: any) => void")] on_event: Function,
    ) -> Js<Engine> {
        let request: LoadRequest = from_js(request)?;
        let source = request.source()?;
        let options = OpenOptions { device: request.device, context_length: request.context_length };
        Ok(open(source, NoStore::<JsBytes>::default(), &options, on_event).await?)
    }

    pub fn info(&self) -> Js<JsValue> {
        to_js(&self.info)
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

    /// Ids of a plain prompt, BOS included where the model is used to it.
    #[wasm_bindgen(js_name = encodePrompt)]
    pub fn encode_prompt(&self, text: &str) -> Js<Vec<u32>> {
        Ok(self.inner.text().encode_prompt(text)?)
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

    /// Ids of a text alone: no BOS, no control tokens.
    pub fn tokenize(&self, text: &str) -> Js<Vec<u32>> {
        Ok(self.inner.text().tokenizer().encode(text)?)
    }

    pub fn detokenize(&self, ids: &[u32], control: bool) -> String {
        self.inner.text().tokenizer().decode(ids, control)
    }

    /// Starts an answer; `options` are [`engine::Options`].
    pub fn begin(&mut self, session: u32, prompt: &[u32], options: JsValue) -> Js<()> {
        let options: engine::Options = from_js(options)?;
        Ok(self.inner.begin(session, prompt, &options)?)
    }

    /// The next [`engine::Event`] of the answer.
    pub async fn next(&mut self) -> Js<JsValue> {
        to_js(&self.inner.next().await?)
    }

    /// Ends the answer where it is, with its [`engine::Event::Done`].
    pub fn interrupt(&mut self) -> Js<JsValue> {
        to_js(&self.inner.interrupt()?)
    }

    /// [`engine::Score`]s of continuations of one context.
    pub async fn score(&mut self, context: &str, continuations: Vec<String>) -> Js<JsValue> {
        let text = self.inner.text().clone();
        let alone = text.encode_prompt(context)?;
        let mut sequences = Vec::with_capacity(continuations.len());
        for continuation in &continuations {
            let ids = text.encode_prompt(&format!("{context}{continuation}"))?;
            // Where a token spans the border, it belongs to the continuation.
            let split = alone.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            sequences.push((ids, split));
        }
        to_js(&self.inner.score(&sequences).await?)
    }
}

async fn open<S: Source<Bytes = JsBytes> + 'static, T: Store<Bytes = JsBytes> + 'static>(
    source: S,
    store: T,
    options: &OpenOptions,
    on_event: Function,
) -> Result<Engine> {
    let tell = move |event: checkpoint::Event| {
        if let Ok(event) = to_js(&event) {
            // What the listener throws is its own matter.
            let _ = on_event.call1(&JsValue::NULL, &event);
        }
    };
    let checkpoint = Checkpoint::open(WebHost, source, store, checkpoint::Options::default(), tell).await?;
    let (inner, info) =
        engine::Engine::open(&checkpoint, options, async |config| Ok(Cpu::new(config, Precision::F16))).await?;
    Ok(Engine { inner, info })
}
