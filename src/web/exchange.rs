//! How CPU threads meet: `Exchange` of `js/threads.ts` over a SharedArrayBuffer.

use super::js::Js;
use crate::backend::Precision;
use crate::backend::cpu::{Cpu, Exchange, Rank, Shard};
use crate::config::Config;
use crate::error::{Error, Result};
use js_sys::{Array, Function, Promise};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// `Exchange` of `js/threads.ts`.
    #[wasm_bindgen(typescript_type = "Exchange")]
    pub type JsExchange;

    #[wasm_bindgen(method, getter)]
    fn rank(this: &JsExchange) -> usize;

    #[wasm_bindgen(method, getter)]
    fn count(this: &JsExchange) -> usize;

    #[wasm_bindgen(method, catch)]
    fn gather(this: &JsExchange, own: &[u32], offset: usize, all: &mut [u32]) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    fn send(this: &JsExchange, message: &[u32]) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    fn post(this: &JsExchange, message: &[u32]) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(method)]
    fn met(this: &JsExchange) -> bool;

    #[wasm_bindgen(method, catch)]
    fn receive(this: &JsExchange) -> std::result::Result<usize, JsValue>;

    #[wasm_bindgen(method)]
    fn copy(this: &JsExchange, into: &mut [u32]);

    #[wasm_bindgen(method)]
    fn fail(this: &JsExchange, message: &str);

    #[wasm_bindgen(method)]
    fn waited(this: &JsExchange) -> f64;
}

fn failed(thrown: JsValue) -> Error {
    let problem = thrown.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{thrown:?}"), |e| e.message().into());
    Error::Threads { problem }
}

struct WebExchange {
    inner: JsExchange,
}

impl Exchange for WebExchange {
    fn all_gather(&mut self, own: &[u32], offset: usize, all: &mut [u32]) -> Result<()> {
        self.inner.gather(own, offset, all).map_err(failed)
    }

    fn send(&mut self, message: &[u32]) -> Result<()> {
        self.inner.send(message).map_err(failed)
    }

    fn post(&mut self, message: &[u32]) -> Result<()> {
        self.inner.post(message).map_err(failed)
    }

    fn met(&self) -> bool {
        self.inner.met()
    }

    fn receive(&mut self, message: &mut Vec<u32>) -> Result<()> {
        message.resize(self.inner.receive().map_err(failed)?, 0);
        self.inner.copy(message);
        Ok(())
    }

    fn fail(&mut self, error: &Error) {
        self.inner.fail(&error.to_string());
    }

    fn take_waited(&mut self) -> Duration {
        Duration::from_secs_f64(self.inner.waited().max(0.0) / 1000.0)
    }
}

fn shard(exchange: &JsExchange) -> Shard {
    Shard { rank: exchange.rank(), count: exchange.count() }
}

/// The CPU backend. `start`, if given, is called with the words that a meeting carries, the configuration and the
/// precision, for [`follow`], and the number of threads, 0 for as many as there can be; it promises the leader's `Exchange`, or null
/// where there is to be one thread. Unless the caller has `chosen` the number, it is halved while that is faster.
pub async fn cpu(config: &Config, precision: Precision, start: Option<&Function>, chosen: bool) -> Result<Cpu> {
    let Some(start) = start else { return Ok(Cpu::new(config, precision)) };
    let text = |e: serde_json::Error| Error::internal(e);
    let (numbers, held) =
        (serde_json::to_string(config).map_err(text)?, serde_json::to_string(&precision).map_err(text)?);
    let mut count = 0;
    loop {
        let words = Cpu::exchange_words(config);
        let arguments = Array::of4(&words.into(), &numbers.as_str().into(), &held.as_str().into(), &count.into());
        let promise = start.apply(&JsValue::NULL, &arguments).map_err(failed)?;
        let exchange = JsFuture::from(promise.unchecked_into::<Promise>()).await.map_err(failed)?;
        if exchange.is_null() {
            return Ok(Cpu::new(config, precision));
        }
        let inner: JsExchange = exchange.unchecked_into();
        let shard = shard(&inner);
        let mut cpu = Cpu::lead(config, precision, shard, Box::new(WebExchange { inner }));
        // Measured with all of them: what the rest of the machine leaves.
        if chosen || cpu.settle()? {
            return Ok(cpu);
        }
        count = shard.count / 2;
    }
}

/// Runs as one of the threads until the leader ends, blocking. `config` and `precision` are what `start` was given.
#[wasm_bindgen]
pub fn follow(config: &str, precision: &str, exchange: JsExchange) -> Js<()> {
    let config: Config = serde_json::from_str(config).map_err(Error::internal)?;
    let precision: Precision = serde_json::from_str(precision).map_err(Error::internal)?;
    let shard = shard(&exchange);
    Ok(Rank::new(&config, precision, shard, Box::new(WebExchange { inner: exchange })).follow()?)
}
