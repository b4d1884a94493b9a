//! Every shader is valid WGSL on its own, stays within WebGPU's default limits, and its uniforms are laid out like the
//! Rust structs that fill them.

#![cfg(feature = "gpu")]

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::gpu::{SamplingUniform, Step, Variant, texts};
use naga::{AddressSpace, Module, TypeInner};
use std::mem::{offset_of, size_of};

/// Every shader as it is compiled, in every variant and for both forms of weights.
fn modules() -> Vec<(String, Module)> {
    let mut list = Vec::new();
    for (subgroups, f16) in [(false, false), (true, false), (true, true)] {
        for precision in [Precision::F16, Precision::Q8, Precision::Q4] {
            for (name, source) in texts(Variant { subgroups, f16 }, precision) {
                let name = format!("{name}, subgroups {subgroups}, f16 {f16}, {precision:?}");
                let module = naga::front::wgsl::parse_str(&source)
                    .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
                list.push((name, module));
            }
        }
    }
    list
}

/// No file of the folder is left out.
#[test]
fn every_file_is_part_of_a_kernel() {
    let all: String = [(true, true), (false, false)]
        .into_iter()
        .flat_map(|(subgroups, f16)| {
            [Precision::F16, Precision::Q8, Precision::Q4].map(|p| texts(Variant { subgroups, f16 }, p))
        })
        .flatten()
        .map(|(_, text)| text)
        .collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(all.contains(&std::fs::read_to_string(&path).unwrap()), "{}", path.display());
    }
}

#[test]
fn valid_and_within_default_limits() {
    // `unpack2x16float` and its like: part of WGSL itself
    let capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | naga::valid::Capabilities::SHADER_FLOAT16
        | naga::valid::Capabilities::SUBGROUP;
    for (name, module) in modules() {
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(module.entry_points.len(), 1, "{name}: one verb a file");
        let [x, y, z] = module.entry_points[0].workgroup_size;
        assert!(x * y * z <= 256, "{name}: {x} x {y} x {z} invocations");
        let variables: Vec<_> = module.global_variables.iter().map(|(_, v)| v).collect();
        let storage = variables.iter().filter(|v| matches!(v.space, AddressSpace::Storage { .. })).count();
        assert!(storage <= 8, "{name}: {storage} storage buffers");
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let shared: u32 = variables
            .iter()
            .filter(|v| v.space == AddressSpace::WorkGroup)
            .map(|v| layouter[v.ty].size.next_multiple_of(16))
            .sum();
        assert!(shared <= 16_384, "{name}: {shared} bytes of workgroup memory");
    }
}

#[test]
fn uniforms_equal_the_rust_structs() {
    let expected = |name: &str| -> Option<(Vec<(&str, usize)>, usize)> {
        macro_rules! layout {
            ($type:ty, $($field:ident),*) => {
                Some((vec![$((stringify!($field), offset_of!($type, $field))),*], size_of::<$type>()))
            };
        }
        match name {
            "Step" => layout!(Step, start, rows, first, logit_rows, uniform_value),
            "Sampling" => layout!(
                SamplingUniform,
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                penalties
            ),
            _ => None,
        }
    };
    let mut seen = 0;
    for (shader, module) in modules() {
        for (_, variable) in module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::Uniform) {
            let ty = &module.types[variable.ty];
            let TypeInner::Struct { members, span } = &ty.inner else { panic!("{shader}: uniform is no struct") };
            let (fields, size) = expected(ty.name.as_deref().unwrap()).unwrap();
            let got: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
            assert_eq!(got, fields, "{shader}");
            assert_eq!(*span as usize, size, "{shader}");
            seen += 1;
        }
    }
    assert!(seen >= 6);
}
