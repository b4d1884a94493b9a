//! One HTTP request through `fetch`; retries, ranges and mirrors are [`HttpSource`]'s.

use super::bytes::JsBytes;
use super::host::{WebHost, message};
use crate::weights::http::{Body, Head, Http, HttpSource, Request, Unsent};
use js_sys::{Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, Headers, ReadableStreamDefaultReader, RequestCache, RequestInit, Response};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_name = fetch)]
    fn fetch(url: &str, init: &RequestInit) -> Result<Promise, JsValue>;
    #[wasm_bindgen(thread_local_v2, js_name = origin)]
    static ORIGIN: Option<String>;
}

/// A model behind HTTP, read by the browser: [`HttpSource::folder`] or [`HttpSource::hub`] with [`WebHttp`] and [`WebHost`].
pub type UrlSource = HttpSource<WebHttp, WebHost>;

#[derive(Debug, Clone, Copy, Default)]
pub struct WebHttp;

/// A failed request or stream, in words. Browsers say "Failed to fetch", "Load failed" and the like, whatever the reason is.
fn failure(error: &JsValue, otherwise: &str) -> String {
    let get = |from: &JsValue, name: &str| Reflect::get(from, &name.into()).ok().filter(|found| !found.is_undefined());
    // Node tells the cause.
    let cause =
        get(error, "cause").and_then(|cause| get(&cause, "code").or_else(|| get(&cause, "message"))?.as_string());
    match cause {
        Some(cause) => format!("{otherwise} ({cause})"),
        None if error.is_instance_of::<js_sys::TypeError>() => otherwise.into(),
        None => message(error),
    }
}

/// Cancels the request when it is dropped.
struct Cancel(AbortController);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct WebBody {
    reader: Option<ReadableStreamDefaultReader>,
    _cancel: Cancel,
}

impl Http for WebHttp {
    type Bytes = JsBytes;
    type Body = WebBody;

    async fn send(&self, request: &Request) -> Result<(Head, WebBody), Unsent> {
        match self.send(request).await {
            Ok(answer) => Ok(answer),
            // `Forbidden` of `js/policy.ts`.
            Err(error) => {
                Err(match Reflect::get(&error, &"needed".into()).ok().and_then(|needed| needed.as_string()) {
                    Some(needed) => Unsent::Forbidden(needed),
                    None => Unsent::Failed(failure(
                        &error,
                        "no connection, or the host does not let this page read it (CORS)",
                    )),
                })
            }
        }
    }
}

impl WebHttp {
    async fn send(&self, request: &Request) -> Result<(Head, WebBody), JsValue> {
        let headers = Headers::new()?;
        if let Some(range) = &request.range {
            headers.set("Range", &format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?;
            // To another origin it would cost a CORS preflight that many hosts refuse.
            let same_origin = ORIGIN.with(|o| o.as_ref().is_some_and(|o| request.url.starts_with(&format!("{o}/"))));
            if let Some(version) = request.if_range.as_ref().filter(|_| same_origin) {
                headers.set("If-Range", version)?;
            }
        }
        if let Some(token) = &request.token {
            headers.set("Authorization", &format!("Bearer {token}"))?;
        }
        let cancel = Cancel(AbortController::new()?);
        let init = RequestInit::new();
        init.set_method(if request.head { "HEAD" } else { "GET" });
        init.set_headers(&headers);
        init.set_signal(Some(&cancel.0.signal()));
        // The store keeps what is worth keeping; a second copy in the HTTP cache would only cost disk.
        init.set_cache(RequestCache::NoStore);
        let response: Response = JsFuture::from(fetch(&request.url, &init)?).await?.unchecked_into();
        let mut head = Head { status: response.status(), ..Head::default() };
        let date = |text: &str| Some(js_sys::Date::parse(text)).filter(|ms| ms.is_finite());
        // Of another origin only some headers can be seen.
        let hidden = Reflect::get(&response, &"type".into()).is_ok_and(|kind| kind == "cors");
        head.encoded = if hidden { None } else { Some(false) };
        const NAMES: [&str; 8] = [
            "etag",
            "last-modified",
            "content-length",
            "content-encoding",
            "content-type",
            "content-range",
            "retry-after",
            "link",
        ];
        for name in NAMES {
            if let Some(value) = response.headers().get(name)? {
                head.set(name, &value, js_sys::Date::now(), date);
            }
        }
        let reader = response.body().map(|body| body.get_reader().unchecked_into());
        Ok((head, WebBody { reader, _cancel: cancel }))
    }
}

impl Body for WebBody {
    type Bytes = JsBytes;

    async fn chunk(&mut self) -> Result<Option<JsBytes>, String> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let read = JsFuture::from(reader.read()).await.map_err(|e| failure(&e, "the connection broke off"))?;
        let value = Reflect::get(&read, &JsValue::from_str("value")).map_err(|e| message(&e))?;
        Ok(value.dyn_into().ok().map(JsBytes))
    }
}
