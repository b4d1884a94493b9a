//! Clock, randomness and SHA-256 of the browser (or of Node).

use super::bytes::JsBytes;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::weights::Host;
use crate::weights::digest::{BLOCK, Digest};
use futures_util::future::join_all;
use js_sys::{Function, Promise, Uint8Array};
use sha2::Digest as _;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);
    #[wasm_bindgen(thread_local_v2, js_name = crypto)]
    static CRYPTO: Option<web_sys::Crypto>;
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
}

/// The browser's [`Host`].
#[derive(Debug, Clone, Copy, Default)]
pub struct WebHost;

impl Host for WebHost {
    type Bytes = JsBytes;

    async fn sha256(&self, bytes: &JsBytes) -> Result<Digest> {
        // `subtle` is missing on pages that are neither https nor localhost.
        let subtle = CRYPTO.with(|crypto| crypto.as_ref().map(web_sys::Crypto::subtle)).filter(|s| !s.is_undefined());
        let Some(subtle) = subtle else { return Ok(digest_in_wasm(bytes)) };
        let failed = |e: JsValue| Error::internal(format!("SHA-256: {}", message(&e)));
        let promise = subtle.digest_with_str_and_js_u8_array("SHA-256", &bytes.0).map_err(failed)?;
        let mut digest = [0; 32];
        Uint8Array::new(&JsFuture::from(promise).await.map_err(failed)?).copy_to(&mut digest);
        Ok(Digest(digest))
    }

    async fn sha256_of_blocks(&self, bytes: &JsBytes) -> Result<Digest> {
        let blocks = (0..bytes.0.length()).step_by(BLOCK).map(|at| {
            let end = bytes.0.length().min(at + BLOCK as u32);
            JsBytes(bytes.0.subarray(at, end))
        });
        let digests = join_all(blocks.map(async |block| self.sha256(&block).await)).await;
        let digests = digests.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Digest::joined(&digests))
    }

    async fn sleep(&self, milliseconds: f64) {
        struct Timer(JsValue);
        impl Drop for Timer {
            fn drop(&mut self) {
                clear_timeout(&self.0);
            }
        }
        let mut timer = None;
        let promise = Promise::new(&mut |resolve, _| timer = Some(Timer(set_timeout(&resolve, milliseconds))));
        let _ = JsFuture::from(promise).await;
    }

    fn now(&self) -> f64 {
        performance_now()
    }

    fn wall_clock(&self) -> f64 {
        js_sys::Date::now()
    }

    fn random(&self) -> f64 {
        js_sys::Math::random()
    }
}

fn digest_in_wasm(bytes: &JsBytes) -> Digest {
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; 1 << 16];
    for at in (0..bytes.len()).step_by(block.len()) {
        let n = block.len().min(bytes.len() - at);
        bytes.read(at, &mut block[..n]);
        hasher.update(&block[..n]);
    }
    Digest(hasher.finalize().into())
}

/// What a JavaScript exception says.
pub fn message(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => format!("{}: {}", error.name(), error.message()),
        None => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}
