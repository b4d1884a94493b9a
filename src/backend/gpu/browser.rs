//! What the browser's WebGPU has and wgpu 30 does not pass on.

use super::variant::Variant;
use js_sys::{Array, Function, Map, Object, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Browsers want the line that naga 30 does not know.
pub const ENABLE_SUBGROUPS: &str = "enable subgroups;\n";

/// Requests a device, and says which of what is wanted it has.
///
/// wgpu 30 does not map the feature `subgroups` (gfx-rs/wgpu #10146), but its shaders pass through as they are. So while wgpu
/// asks for its device, which it does at once and before it returns, `requestDevice` is one that adds the feature.
///
/// # Errors
/// The browser's message.
pub async fn request_device(
    adapter: &wgpu::Adapter,
    required_limits: wgpu::Limits,
    wanted: Variant,
) -> Result<(wgpu::Device, wgpu::Queue, Variant), String> {
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SHADER_F16, wanted.f16);
    let required_features = adapter.features() & features;
    let hook = if wanted.subgroups { Hook::new().await.ok().flatten() } else { None };
    let variant = Variant { subgroups: hook.is_some(), f16: required_features.contains(wgpu::Features::SHADER_F16) };
    let descriptor = wgpu::DeviceDescriptor { required_limits, required_features, ..Default::default() };
    let future = adapter.request_device(&descriptor);
    drop(hook);
    let (device, queue) = future.await.map_err(|error| format!("no device: {error}"))?;
    Ok((device, queue, variant))
}

/// Nothing to do: the browser drives the device.
pub fn wait(_: &wgpu::Device) {}

/// Vendor and architecture, which browsers give where they keep the name to themselves.
pub fn adapter_name(device: &wgpu::Device) -> Option<String> {
    let info = Reflect::get(device.as_webgpu()?.as_ref(), &"adapterInfo".into()).ok()?;
    let parts =
        ["description", "vendor", "architecture"].map(|field| Reflect::get(&info, &field.into()).ok()?.as_string());
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `requestDevice` replaced, until dropped.
struct Hook {
    prototype: Object,
    original: JsValue,
    _replacement: Closure<dyn FnMut(JsValue) -> JsValue>,
}

const METHOD: &str = "requestDevice";

impl Hook {
    /// `None` where the adapter has no subgroups.
    async fn new() -> Result<Option<Hook>, JsValue> {
        let get = |of: &JsValue, name: &str| Reflect::get(of, &JsValue::from_str(name));
        let gpu = get(&get(&js_sys::global(), "navigator")?, "gpu")?;
        let options = Object::new();
        Reflect::set(&options, &"powerPreference".into(), &"high-performance".into())?;
        let request: Function = get(&gpu, "requestAdapter")?.dyn_into()?;
        let promise: Promise = request.call1(&gpu, &options)?.dyn_into()?;
        let adapter = JsFuture::from(promise).await?;
        let features = get(&adapter, "features")?;
        let has: Function = get(&features, "has")?.dyn_into()?;
        if !has.call1(&features, &"subgroups".into())?.is_truthy() {
            return Ok(None);
        }
        let prototype = Object::get_prototype_of(&adapter);
        let original = get(&prototype, METHOD)?;
        let method: Function = original.clone().dyn_into()?;
        let replacement = Closure::new(move |descriptor: JsValue| {
            let wanted = match get(&descriptor, "requiredFeatures") {
                Ok(list) if list.is_object() => Array::from(&list),
                _ => Array::new(),
            };
            wanted.push(&"subgroups".into());
            // What cannot be set or called throws in wgpu's place.
            let _ = Reflect::set(&descriptor, &"requiredFeatures".into(), &wanted);
            method.call1(&adapter, &descriptor).unwrap_or_else(|error| Promise::reject(&error).into())
        });
        Reflect::set(&prototype, &METHOD.into(), replacement.as_ref())?;
        Ok(Some(Hook { prototype, original, _replacement: replacement }))
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // The property was writable a moment ago.
        let _ = Reflect::set(&self.prototype, &METHOD.into(), &self.original);
    }
}

/// Compute pipelines that the browser compiles side by side, by their labels.
///
/// wgpu 30 only has `createComputePipeline`, which browsers run one after the other. So while the caller has wgpu make its
/// pipelines, the device's method first starts `createComputePipelineAsync` (what it returns then is no pipeline and must
/// be dropped), and when those are done gives them out.
pub struct Compiling {
    made: Map,
    promises: Array,
}

const CREATE: &str = "createComputePipeline";

impl Compiling {
    /// `make` makes every pipeline through wgpu. `None` where the browser cannot do this.
    pub fn start(device: &wgpu::Device, make: impl FnOnce()) -> Option<Self> {
        let raw: JsValue = device.as_webgpu()?.clone().into();
        let compile: Function = Reflect::get(&raw, &"createComputePipelineAsync".into()).ok()?.dyn_into().ok()?;
        let (made, promises) = (Map::new(), Array::new());
        let replacement = {
            let (made, promises, raw) = (made.clone(), promises.clone(), raw.clone());
            Closure::<dyn FnMut(JsValue) -> JsValue>::new(move |descriptor: JsValue| {
                let label = Reflect::get(&descriptor, &"label".into()).unwrap_or_default();
                let promise = compile.call1(&raw, &descriptor).and_then(JsCast::dyn_into::<Promise>);
                if let Ok(promise) = promise {
                    let made = made.clone();
                    // One that fails is not in `made`: it is made again at its first use, which tells what is wrong.
                    let keep = Closure::once_into_js(move |pipeline: JsValue| drop(made.set(&label, &pipeline)));
                    let ignore = Closure::once_into_js(|_: JsValue| {});
                    if let (Ok(keep), Ok(ignore)) = (keep.dyn_into(), ignore.dyn_into()) {
                        promises.push(&then(&promise, &keep, &ignore));
                    }
                }
                Object::new().into()
            })
        };
        let _replaced = Replaced::new(&raw, replacement.as_ref())?;
        make();
        Some(Compiling { made, promises })
    }

    /// Waits, then gives out what was compiled while `make` makes the same pipelines.
    pub async fn finish(self, device: &wgpu::Device, make: impl FnOnce()) {
        // `then` above handles rejections: this one always resolves.
        let _ = JsFuture::from(Promise::all(&self.promises)).await;
        let Some(raw) = device.as_webgpu().map(|raw| JsValue::from(raw.clone())) else { return make() };
        let create = Reflect::get(&raw, &CREATE.into()).ok().and_then(|f| f.dyn_into::<Function>().ok());
        let Some(create) = create else { return make() };
        let made = self.made;
        let replacement = {
            let raw = raw.clone();
            Closure::<dyn FnMut(JsValue) -> JsValue>::new(move |descriptor: JsValue| {
                let found = made.get(&Reflect::get(&descriptor, &"label".into()).unwrap_or_default());
                if found.is_undefined() { create.call1(&raw, &descriptor).unwrap_or_default() } else { found }
            })
        };
        let _replaced = Replaced::new(&raw, replacement.as_ref());
        make();
    }
}

fn then(promise: &Promise, keep: &Function, ignore: &Function) -> JsValue {
    let then = Reflect::get(promise, &"then".into()).and_then(JsCast::dyn_into::<Function>);
    then.and_then(|then| then.call2(promise, keep, ignore)).unwrap_or_default()
}

/// One device's own `createComputePipeline`, until dropped.
struct Replaced(Object);

impl Replaced {
    fn new(device: &JsValue, method: &JsValue) -> Option<Self> {
        let device: Object = device.clone().unchecked_into();
        Reflect::set(&device, &CREATE.into(), method).ok()?.then_some(Replaced(device))
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // The prototype's comes back.
        let _ = Reflect::delete_property(&self.0, &CREATE.into());
    }
}
