//! Verb -> shader, constants, bindings.

use std::collections::HashMap;

/// A shader of `shaders/`, by its name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Embed,
    Qkv,
    Attend,
    Merge,
    MatmulAdd,
    GateUp,
    Logits,
    Argmax,
    Sample,
    RmsNorm,
    Matmul,
    Rope,
    Swiglu,
}

macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!("../../../shaders/", $name, ".wgsl"))
    };
}

impl Kernel {
    /// Whether it calls the functions of `reduce.wgsl`.
    fn reduces(self) -> bool {
        use Kernel::*;
        matches!(self, Qkv | Attend | MatmulAdd | GateUp | Logits | RmsNorm)
    }

    fn source(self) -> &'static str {
        match self {
            Kernel::Embed => shader!("embed"),
            Kernel::Qkv => shader!("qkv"),
            Kernel::Attend => shader!("attend"),
            Kernel::Merge => shader!("merge"),
            Kernel::MatmulAdd => shader!("matmul_add"),
            Kernel::GateUp => shader!("gate_up"),
            Kernel::Logits => shader!("logits"),
            Kernel::Argmax => shader!("argmax"),
            Kernel::Sample => shader!("sample"),
            Kernel::RmsNorm => shader!("rms_norm"),
            Kernel::Matmul => shader!("matmul"),
            Kernel::Rope => shader!("rope"),
            Kernel::Swiglu => shader!("swiglu"),
        }
    }
}

/// The whole module. WGSL wants `enable subgroups`; naga 30 knows the functions but not that line.
fn source(kernel: Kernel, subgroups: bool) -> String {
    let enable = if subgroups && cfg!(target_arch = "wasm32") { "enable subgroups;\n" } else { "" };
    let reduce = match (kernel.reduces(), subgroups) {
        (false, _) => return kernel.source().to_owned(),
        (true, false) => shader!("reduce"),
        (true, true) => shader!("reduce_subgroups"),
    };
    [enable, reduce, kernel.source()].concat()
}

/// Values of a shader's `override` constants.
pub(super) type Constants<'a> = &'a [(&'static str, f64)];

/// A kernel with its constants, as bits that can be compared.
type Variant = (Kernel, Vec<(&'static str, u64)>);

/// Compiled shaders of one device, each made once.
pub(super) struct Kernels {
    device: wgpu::Device,
    subgroups: bool,
    modules: HashMap<Kernel, wgpu::ShaderModule>,
    pipelines: HashMap<Variant, wgpu::ComputePipeline>,
}

/// A kernel with everything bound that it reads and writes: made once, launched every step.
#[derive(Clone)]
pub(super) struct Launch {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroup,
}

impl Kernels {
    pub fn new(device: wgpu::Device, subgroups: bool) -> Self {
        Kernels { device, subgroups, modules: HashMap::new(), pipelines: HashMap::new() }
    }

    fn pipeline(&mut self, kernel: Kernel, constants: Constants) -> &wgpu::ComputePipeline {
        let key = constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        self.pipelines.entry((kernel, key)).or_insert_with(|| {
            let module = self.modules.entry(kernel).or_insert_with(|| {
                self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(&format!("{kernel:?}")),
                    source: wgpu::ShaderSource::Wgsl(source(kernel, self.subgroups).into()),
                })
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&format!("{kernel:?} {constants:?}")),
                layout: None,
                module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
                cache: None,
            })
        })
    }

    /// Binds `buffers` in the order of the shader's bindings.
    pub fn launch(&mut self, kernel: Kernel, constants: Constants, buffers: &[&wgpu::Buffer]) -> Launch {
        let pipeline = self.pipeline(kernel, constants).clone();
        let entries: Vec<_> = (0u32..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&format!("{kernel:?}")),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Launch { pipeline, bindings }
    }
}
