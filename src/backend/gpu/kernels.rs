//! Verb -> shader, constants, bindings.

use super::activations::{MAX_PARTS, MAX_ROWS};
use super::variant::{Alter, Variant};
use super::{CHUNK, host};
use crate::backend::{Packing, Precision};
use crate::config::Config;
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

const ALL: [Kernel; 13] = {
    use Kernel::*;
    [Embed, Qkv, Attend, Merge, MatmulAdd, GateUp, Logits, Argmax, Sample, RmsNorm, Matmul, Rope, Swiglu]
};

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::Embed => "embed",
            Kernel::Qkv => "qkv",
            Kernel::Attend => "attend",
            Kernel::Merge => "merge",
            Kernel::MatmulAdd => "matmul_add",
            Kernel::GateUp => "gate_up",
            Kernel::Logits => "logits",
            Kernel::Argmax => "argmax",
            Kernel::Sample => "sample",
            Kernel::RmsNorm => "rms_norm",
            Kernel::Matmul => "matmul",
            Kernel::Rope => "rope",
            Kernel::Swiglu => "swiglu",
        }
    }

    fn own_text(self) -> &'static str {
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

    /// The whole module: the pieces that it shares with others, then its own text.
    fn text(self, variant: Variant, packing: Packing) -> String {
        use Kernel::*;
        let reduces = matches!(self, Qkv | Attend | MatmulAdd | GateUp | Logits | RmsNorm);
        let steps = matches!(self, Qkv | Attend | Merge | Logits | Sample | RmsNorm | Matmul | Rope);
        let f16 = self == Matmul && variant.f16;
        let pieces = [
            (reduces && variant.subgroups, host::ENABLE_SUBGROUPS),
            (f16, "enable f16;\n"),
            (steps, shader!("step")),
            (reduces && variant.subgroups, shader!("reduce_subgroups")),
            (reduces && !variant.subgroups, shader!("reduce")),
            (self.reads_weights() && packing == Packing::F16, shader!("weights_f16")),
            (self.reads_weights() && packing == Packing::Q8, shader!("weights_q8")),
            (self.reads_weights() && packing == Packing::Q4, shader!("weights_q4")),
            (f16, shader!("tile_f16")),
            (self == Matmul && !f16, shader!("tile_f32")),
            (matches!(self, Qkv | Rope), shader!("heads")),
            (matches!(self, Argmax | Sample), shader!("best")),
            (true, self.own_text()),
        ];
        pieces.into_iter().filter(|(wanted, _)| *wanted).map(|(_, text)| text).collect()
    }

    /// Of the weights that it reads; [`Kernel::Matmul`] also reads the head's.
    fn packing(self, precision: Precision) -> Packing {
        if matches!(self, Kernel::Embed | Kernel::Logits) { precision.of_tables() } else { precision.of_blocks() }
    }

    fn reads_weights(self) -> bool {
        use Kernel::*;
        matches!(self, Embed | Qkv | MatmulAdd | GateUp | Logits | Matmul)
    }
}

/// Name and text of every shader as it is compiled; for tests and to tell one version of them from another.
pub fn texts(variant: Variant, precision: Precision) -> Vec<(&'static str, String)> {
    let mut list: Vec<_> =
        ALL.iter().map(|kernel| (kernel.name(), kernel.text(variant, kernel.packing(precision)))).collect();
    if precision.of_tables() != precision.of_blocks() {
        list.push((Kernel::Matmul.name(), Kernel::Matmul.text(variant, precision.of_tables())));
    }
    list
}

/// Values of a shader's `override` constants.
pub(super) type Constants = Vec<(&'static str, f64)>;

/// A kernel with its constants.
pub(super) struct Program {
    pub kernel: Kernel,
    /// Of the weights, for a kernel that reads any.
    pub packing: Packing,
    pub constants: Constants,
}

/// Whole rows of a matrix that fit one binding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub first: usize,
    pub rows: usize,
}

/// What the tiled product does with the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    Store,
    Add,
    /// Rows of the logits only.
    Logits,
}

/// What each verb compiles to, for one model.
pub(super) struct Programs {
    pub config: Config,
    pub precision: Precision,
    /// Threads that share the product of four rows of so many elements.
    pub threads: fn(usize) -> usize,
}

impl Programs {
    fn program(&self, kernel: Kernel, constants: impl IntoIterator<Item = (&'static str, usize)>) -> Program {
        Program {
            kernel,
            packing: kernel.packing(self.precision),
            constants: constants.into_iter().map(|(name, value)| (name, value as f64)).collect(),
        }
    }

    fn with_epsilon(&self, mut program: Program) -> Program {
        program.constants.push(("EPSILON", self.config.rms_norm_eps.into()));
        program
    }

    fn heads(&self) -> [(&'static str, usize); 3] {
        let c = &self.config;
        [("HEADS", c.num_heads), ("KV_HEADS", c.num_kv_heads), ("HEAD_DIM", c.head_dim)]
    }

    fn hidden(&self) -> [(&'static str, usize); 2] {
        [("HIDDEN", self.config.hidden_size), ("THREADS", (self.threads)(self.config.hidden_size))]
    }

    pub fn embed(&self, part: Span) -> Program {
        let of = [("HIDDEN", self.config.hidden_size), ("FIRST", part.first), ("COUNT", part.rows)];
        self.program(Kernel::Embed, of)
    }

    pub fn qkv(&self) -> Program {
        self.with_epsilon(self.program(Kernel::Qkv, self.heads().into_iter().chain(self.hidden())))
    }

    pub fn attend(&self) -> Program {
        self.program(Kernel::Attend, self.heads().into_iter().chain([("THREADS", 256)]))
    }

    pub fn merge(&self) -> Program {
        let c = &self.config;
        let of = [("HEADS", c.num_heads), ("HEAD_DIM", c.head_dim), ("CHUNK", CHUNK), ("MOST", MAX_PARTS)];
        self.program(Kernel::Merge, of)
    }

    pub fn matmul_add(&self, rows: usize, cols: usize) -> Program {
        self.program(Kernel::MatmulAdd, [("ROWS", rows), ("COLS", cols), ("THREADS", (self.threads)(cols))])
    }

    pub fn gate_up(&self) -> Program {
        let width = [("WIDTH", self.config.intermediate_size)];
        self.with_epsilon(self.program(Kernel::GateUp, self.hidden().into_iter().chain(width)))
    }

    pub fn logits(&self, part: Span) -> Program {
        let of = [("VOCAB", self.config.vocab_size), ("FIRST", part.first), ("COUNT", part.rows)];
        self.with_epsilon(self.program(Kernel::Logits, self.hidden().into_iter().chain(of)))
    }

    pub fn argmax(&self) -> Program {
        self.program(Kernel::Argmax, [("VOCAB", self.config.vocab_size)])
    }

    pub fn sample(&self) -> Program {
        self.program(Kernel::Sample, [("VOCAB", self.config.vocab_size)])
    }

    pub fn rms_norm(&self, logits: bool) -> Program {
        let of = self.hidden().into_iter().chain([("LOGITS", usize::from(logits))]);
        self.with_epsilon(self.program(Kernel::RmsNorm, of))
    }

    /// `part` of a matrix of `rows`.
    pub fn matmul(&self, packing: Packing, rows: usize, part: Span, product: Product) -> Program {
        let mut of = vec![
            ("ROOM", MAX_ROWS),
            ("ADD", usize::from(product == Product::Add)),
            ("LOGITS", usize::from(product == Product::Logits)),
        ];
        if part.rows < rows {
            of.extend([("STRIDE", rows), ("FIRST", part.first)]);
        }
        Program { packing, ..self.program(Kernel::Matmul, of) }
    }

    pub fn rope(&self) -> Program {
        self.program(Kernel::Rope, self.heads())
    }

    pub fn swiglu(&self) -> Program {
        self.program(Kernel::Swiglu, [("WIDTH", self.config.intermediate_size)])
    }

    /// All that answers need; `table` is how the embedding is split. The product of many rows of logits, which only scores
    /// need, is left to its first use.
    pub fn all(&self, table: &[Span]) -> Vec<Program> {
        let c = &self.config;
        let (hidden, width, ffn) = (c.hidden_size, c.attention_width(), c.intermediate_size);
        let product = |how| self.matmul(self.precision.of_blocks(), 1, Span { first: 0, rows: 1 }, how);
        let mut list = vec![
            self.qkv(),
            self.attend(),
            self.merge(),
            self.matmul_add(hidden, width),
            self.gate_up(),
            self.matmul_add(hidden, ffn),
            self.argmax(),
            self.sample(),
            self.rms_norm(false),
            product(Product::Store),
            self.rope(),
            product(Product::Add),
            self.swiglu(),
        ];
        for &part in table {
            list.extend([self.embed(part), self.logits(part)]);
        }
        list
    }
}

/// A kernel with its constants, as bits that can be compared.
type Key = (Kernel, Packing, Vec<(&'static str, u64)>);

fn key(program: &Program) -> Key {
    (program.kernel, program.packing, program.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect())
}

/// Compiled shaders of one device in one variant, each made once.
pub(super) struct Kernels {
    device: wgpu::Device,
    variant: Variant,
    alter: Option<Alter>,
    modules: HashMap<(Kernel, Packing), wgpu::ShaderModule>,
    pipelines: HashMap<Key, wgpu::ComputePipeline>,
    /// Programs that the browser is compiling.
    compiling: Option<(host::Compiling, Vec<Program>)>,
}

/// A kernel with everything bound that it reads and writes: made once, launched every step.
#[derive(Clone)]
pub(super) struct Launch {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroup,
}

impl Kernels {
    pub fn new(device: wgpu::Device, variant: Variant, alter: Option<Alter>) -> Self {
        Kernels { device, variant, alter, modules: HashMap::new(), pipelines: HashMap::new(), compiling: None }
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Has the browser compile these side by side, while weights are loaded. Natively they are compiled at their first use.
    pub fn start(&mut self, programs: Vec<Program>) {
        let device = self.device.clone();
        let compiling = host::Compiling::start(&device, || {
            for program in &programs {
                self.compile(program);
            }
        });
        self.compiling = compiling.map(|compiling| (compiling, programs));
    }

    /// Waits for what was started. What could not be compiled is tried again, and fails, at its first use.
    pub async fn ready(&mut self) {
        if let Some((compiling, programs)) = self.compiling.take() {
            let device = self.device.clone();
            let make = || {
                for program in &programs {
                    self.pipeline(program);
                }
            };
            compiling.finish(&device, make).await;
        }
    }

    fn compile(&mut self, program: &Program) -> wgpu::ComputePipeline {
        let Program { kernel, packing, .. } = *program;
        let module = self.modules.entry((kernel, packing)).or_insert_with(|| {
            let mut text = kernel.text(self.variant, packing);
            if let Some(alter) = self.alter {
                text = alter(kernel.name(), text);
            }
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name()),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            })
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            // tells pipelines apart
            label: Some(&format!("{} {packing:?} {:?}", kernel.name(), program.constants)),
            layout: None,
            module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &program.constants,
                ..Default::default()
            },
            cache: None,
        })
    }

    fn pipeline(&mut self, program: &Program) -> wgpu::ComputePipeline {
        let key = key(program);
        if let Some(pipeline) = self.pipelines.get(&key) {
            return pipeline.clone();
        }
        let pipeline = self.compile(program);
        self.pipelines.insert(key, pipeline.clone());
        pipeline
    }

    /// Binds `buffers` in the order of the shader's bindings, and weights (and their scales) from [`WEIGHTS`] on.
    pub fn launch(&mut self, program: &Program, buffers: &[&wgpu::Buffer], weights: &[&wgpu::Buffer]) -> Launch {
        let pipeline = self.pipeline(program);
        let numbered = (0u32..).zip(buffers).chain((WEIGHTS..).zip(weights));
        let entries: Vec<_> = numbered
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(program.kernel.name()),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Launch { pipeline, bindings }
    }
}

/// Binding of the weights, in `shaders/weights_*.wgsl`.
const WEIGHTS: u32 = 8;
