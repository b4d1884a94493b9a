//! What the benchmark page `bench/gpu.html` and the conformance test in browsers call: the GPU backend on seeded weights,
//! without files, tokenizer or worker.

use super::js::{Js, to_js};
use crate::backend::gpu::{Device, DeviceOptions, Gpu};
use crate::backend::sampler::Sampling;
use crate::backend::{Backend, Input, Packing, Precision};
use crate::config::Config;
use crate::conformance;
use crate::engine::probe::probe;
use crate::error::{Error, Result};
use crate::model::{Loader, Model};
use crate::packed::GROUP;
use crate::session::{GenerateOptions, Generation, Session, Step};
use crate::synthetic;
use crate::weights::TensorSink;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use web_time::Instant;

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Runs the conformance suite on the browser's GPU and returns what of the adapter was used, and the report.
#[wasm_bindgen(js_name = gpuConformance)]
pub async fn gpu_conformance(options: JsValue) -> Js<JsValue> {
    let Variant { subgroups, f16, dtype: precision, tolerance } = serde_wasm_bindgen::from_value(options)?;
    let options = DeviceOptions { no_subgroups: !subgroups, no_f16: !f16, ..DeviceOptions::default() };
    let device = Device::open(&options).await?;
    let report = conformance::check(|config| Gpu::new(&device, config, precision), precision, tolerance).await?;
    to_js(&(device.variant().features(), report))
}

/// What [`gpu_conformance`] runs: kernels that may use these features, and the largest relative error it allows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    subgroups: bool,
    f16: bool,
    dtype: Precision,
    tolerance: f32,
}

/// A model of a given shape with seeded weights, on the GPU.
#[wasm_bindgen]
pub struct GpuBench {
    model: Model<Gpu>,
    opened: Opened,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Opened {
    adapter: String,
    parameters: u64,
    /// Bytes that a decode step reads: every stored weight once for each time it runs.
    step_bytes: u64,
    gpu_bytes: u64,
    /// Milliseconds: adapter and device; bytes in memory -> ready (buffers, upload, kernels, one token).
    device_ms: f64,
    init_ms: f64,
    /// Of which: until every byte was handed over; until everything was compiled too.
    upload_ms: f64,
    compiled_ms: f64,
    self_check_ms: f64,
    /// `passed`, or what failed.
    self_check: String,
    features: Vec<String>,
}

#[wasm_bindgen]
impl GpuBench {
    /// `config`: text of a `config.json`.
    /// `plain`: without shader-f16 and subgroups.
    pub async fn open(config: String, dtype: &str, plain: bool) -> Js<GpuBench> {
        let precision = serde_json::from_value(dtype.into()).map_err(Error::internal)?;
        Ok(Self::open_inner(&config, precision, plain).await?)
    }

    pub fn opened(&self) -> Js<JsValue> {
        to_js(&self.opened)
    }

    #[wasm_bindgen(js_name = setInFlight)]
    pub fn set_in_flight(&mut self, steps: usize) {
        self.model.backend().set_in_flight(steps);
    }

    /// Milliseconds for a prompt of `tokens` ids on an empty session, last logits included: one number for each of `times`.
    pub async fn prefill(&mut self, tokens: usize, times: usize) -> Js<Vec<f64>> {
        let mut out = Vec::new();
        for run in 0..times {
            out.push(self.prompt(tokens, run).await?.1);
        }
        Ok(out)
    }

    /// Milliseconds for `count` ids after a prompt of `prompt` tokens: one number for each id. `temperature` 0 is greedy.
    pub async fn decode(&mut self, prompt: usize, count: usize, temperature: f32, top_p: f32) -> Js<Vec<f64>> {
        Ok(self.decode_inner(prompt, count, temperature, top_p).await?)
    }

    /// Milliseconds of CPU time to record and submit one decode step, the mean of `steps`.
    pub async fn encode(&mut self, steps: usize) -> Js<f64> {
        Ok(self.encode_inner(steps).await?)
    }
}

/// Bytes of so many weights.
fn weights(count: u64, packing: Packing) -> u64 {
    count / GROUP as u64 * packing.row_bytes(GROUP) as u64
}

impl GpuBench {
    async fn open_inner(config: &str, precision: Precision, plain: bool) -> Result<GpuBench> {
        let config = Config::parse(config)?;
        let list = synthetic::tensors(&config);
        let mut bytes = Vec::new();
        synthetic::load(&config, 1, &mut Keep(&mut bytes))?;
        let start = Instant::now();
        let options = DeviceOptions { no_subgroups: plain, no_f16: plain, ..DeviceOptions::default() };
        let device = Device::open(&options).await?;
        let device_ms = ms(start);
        let start = Instant::now();
        let mut gpu = Gpu::new(&device, &config, precision)?;
        gpu.prepare();
        let mut loader = Loader::new(config.clone(), gpu);
        loader.begin(&list)?;
        for (tensor, pieces) in bytes.into_iter().enumerate() {
            let mut offset = 0;
            for piece in pieces {
                loader.write(tensor, offset, &piece)?;
                offset += piece.len() as u64;
            }
        }
        let mut model = loader.finish()?;
        let upload_ms = ms(start);
        model.backend().ready().await;
        let compiled_ms = ms(start);
        let order = config.order().len() as u64;
        let table = (config.vocab_size * config.hidden_size) as u64;
        let stored = config.parameters() - table * if config.tied { 1 } else { 2 };
        let opened = Opened {
            adapter: device.name(),
            parameters: config.parameters(),
            step_bytes: weights(table, precision.of_tables())
                + weights(stored / config.num_blocks as u64 * order, precision.of_blocks()),
            gpu_bytes: 0,
            device_ms,
            init_ms: 0.0,
            upload_ms,
            compiled_ms,
            self_check_ms: 0.0,
            self_check: String::new(),
            features: device.variant().features(),
        };
        let mut bench = GpuBench { model, opened };
        bench.decode_inner(8, 2, 0.0, 1.0).await?;
        bench.opened.init_ms = ms(start);
        let start = Instant::now();
        let failure = probe(&mut bench.model).await?;
        bench.opened.self_check_ms = ms(start);
        bench.opened.self_check = failure.map_or("passed".into(), |failure| failure.to_string());
        bench.opened.gpu_bytes = device.allocated();
        Ok(bench)
    }

    fn ids(&self, count: usize, seed: usize) -> Vec<u32> {
        let vocab = self.model.config().vocab_size;
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 17) % vocab) as u32).collect()
    }

    async fn prompt(&mut self, tokens: usize, seed: usize) -> Result<(Session<Gpu>, f64)> {
        let ids = self.ids(tokens, seed);
        let mut session = Session::new(&mut self.model, tokens + 1024)?;
        let options = GenerateOptions {
            sampling: Sampling::default(),
            max_tokens: Some(1),
            stop_ids: Vec::new(),
            keep_logits: false,
        };
        let start = Instant::now();
        let mut generation = Generation::begin(&mut self.model, &mut session, &ids, &options)?;
        while !matches!(generation.next(&mut self.model, &mut session).await?, Step::Token { .. }) {}
        Ok((session, ms(start)))
    }

    async fn decode_inner(&mut self, prompt: usize, count: usize, temperature: f32, top_p: f32) -> Result<Vec<f64>> {
        let (mut session, _) = self.prompt(prompt, 0).await?;
        let ids = self.ids(prompt, 0);
        let options = GenerateOptions {
            sampling: Sampling { temperature, top_p, seed: 1, ..Sampling::default() },
            max_tokens: Some(count + 1),
            stop_ids: Vec::new(),
            keep_logits: false,
        };
        let mut generation = Generation::begin(&mut self.model, &mut session, &ids, &options)?;
        let mut times = Vec::new();
        let mut last = None;
        loop {
            match generation.next(&mut self.model, &mut session).await? {
                Step::Prefill { .. } => {}
                Step::Token { .. } => {
                    let now = Instant::now();
                    if let Some(last) = last.replace(now) {
                        times.push((now - last).as_secs_f64() * 1e3);
                    }
                }
                Step::Done(_) => return Ok(times),
            }
        }
    }

    async fn encode_inner(&mut self, steps: usize) -> Result<f64> {
        let (_, _) = self.prompt(8, 0).await?;
        let mut cache = self.model.new_cache(steps + 1)?;
        self.model.backend().begin_sampling(&Sampling::default(), &[], &[])?;
        let mut total = 0.0;
        for step in 0..steps {
            let start = Instant::now();
            self.model.forward(&mut cache, Input::Chosen, step, 0..1)?;
            let ticket = self.model.backend().choose(0.5)?;
            if step > 0 {
                total += ms(start); // the first one binds the kernels to the new cache
            }
            self.model.backend().chosen(ticket).await?;
        }
        Ok(total / (steps - 1) as f64)
    }
}

/// Keeps a checkpoint's bytes.
struct Keep<'a>(&'a mut Vec<Vec<Vec<u8>>>);

impl TensorSink for Keep<'_> {
    fn begin(&mut self, tensors: &[crate::weights::TensorInfo]) -> Result<Vec<bool>> {
        self.0.resize(tensors.len(), Vec::new());
        Ok(vec![true; tensors.len()])
    }

    fn write(&mut self, tensor: usize, _: u64, bytes: &dyn crate::bytes::Bytes) -> Result<()> {
        let mut piece = vec![0; bytes.len()];
        bytes.read(0, &mut piece);
        self.0.get_mut(tensor).ok_or_else(|| Error::internal("an unknown tensor"))?.push(piece);
        Ok(())
    }
}
