//! What a native wgpu has: every feature passed on, a device to poll, and no compiler beside it.

use super::variant::Variant;

/// naga 30 knows the functions of subgroups but not the line that enables them.
pub const ENABLE_SUBGROUPS: &str = "";

/// Requests a device, and says which of what is wanted it has.
///
/// # Errors
/// The driver's message.
pub async fn request_device(
    adapter: &wgpu::Adapter,
    required_limits: wgpu::Limits,
    wanted: Variant,
) -> Result<(wgpu::Device, wgpu::Queue, Variant), String> {
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SHADER_F16, wanted.f16);
    features.set(wgpu::Features::SUBGROUP, wanted.subgroups);
    let required_features = adapter.features() & features;
    let has = |feature| required_features.contains(feature);
    let variant = Variant { subgroups: has(wgpu::Features::SUBGROUP), f16: has(wgpu::Features::SHADER_F16) };
    let descriptor = wgpu::DeviceDescriptor { required_limits, required_features, ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| format!("no device: {e}"))?;
    Ok((device, queue, variant))
}

/// `None`: [`wgpu::AdapterInfo`] has the name.
pub fn adapter_name(_: &wgpu::Device) -> Option<String> {
    None
}

/// Waits until everything submitted is done.
pub fn wait(device: &wgpu::Device) {
    // A lost device is told by `Device::check`.
    let _ = device.poll(wgpu::PollType::wait_indefinitely());
}

/// Nothing: each pipeline is compiled at its first use.
pub enum Compiling {}

impl Compiling {
    pub fn start(_: &wgpu::Device, _: impl FnOnce()) -> Option<Self> {
        None
    }

    pub async fn finish(self, _: &wgpu::Device, _: impl FnOnce()) {
        match self {}
    }
}
