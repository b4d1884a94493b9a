//! Which of a checkpoint's tensors are weights of the model, whatever wrapped the model when it was saved.

use super::{Dtype, TensorInfo, TypeName};
use crate::config::Config;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

pub const EMBEDDING: &str = "model.embed_tokens.weight";
pub const HEAD: &str = "lm_head.weight";
/// Where the inner model's prefix is looked for: every LLaMA has it.
const ANCHOR: &str = "layers.0.self_attn.q_proj.weight";
/// What wrappers of compilers and trainers put into names.
const WRAPPERS: [&str; 4] = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
const IN_A_BLOCK: [&str; 9] = [
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
];

/// What a tensor is to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A weight, by its name in Hugging Face's LLaMA.
    Weight(String),
    /// Of no use. `expected`: such as are often left in files.
    Skipped { expected: bool },
}

/// The use of each tensor. Names may have any prefix, or lack `model.`, if all do.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that is there twice, one that says that the model is not the one that is computed here, one whose
/// dtype is not read; or where several models could be meant. Names are those of the file.
pub fn uses(config: &Config, tensors: &[TensorInfo]) -> Result<Vec<Use>> {
    let plain: Vec<String> = tensors.iter().map(|t| unwrapped(&t.name)).collect();
    let inner = inner_prefix(config, &plain)?;
    // The head lies beside the inner model or beside something around that.
    let head = plain.iter().filter_map(|name| prefix_of(name, HEAD)).filter(|outer| inner.starts_with(outer));
    let head = head.max_by_key(|outer| outer.len());
    let mut seen = HashSet::new();
    let mut uses = Vec::with_capacity(tensors.len());
    for (info, name) in tensors.iter().zip(&plain) {
        let canonical = match (name.strip_prefix(inner), head) {
            (_, Some(outer)) if name.strip_prefix(outer).is_some_and(|rest| rest.starts_with("lm_head.")) => {
                Some(name[outer.len()..].to_owned())
            }
            (Some(rest), _) => Some(format!("model.{rest}")),
            // What GGUF has and Hugging Face's LLaMA has not.
            _ => name.strip_prefix("blk.").map(|rest| format!("model.layers.{rest}")),
        };
        uses.push(match canonical {
            _ if left_over(name) => Use::Skipped { expected: true },
            Some(canonical) if is_weight(config, &canonical) => {
                if !seen.insert(canonical.clone()) {
                    return Err(Error::tensor(&info.name, "stored twice"));
                }
                if let Dtype::Unread { name: TypeName(name), .. } = info.dtype {
                    return Err(Error::tensor(&info.name, format!("dtype {name} is not one of F16, BF16, F32")));
                }
                Use::Weight(canonical)
            }
            Some(canonical) if counts(config, info, &canonical) => {
                let problem = "has no place in this architecture, and would change what it computes";
                return Err(Error::tensor(&info.name, problem));
            }
            _ => Use::Skipped { expected: false },
        });
    }
    Ok(uses)
}

/// The name without the names of wrappers.
fn unwrapped(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// What precedes `end` in a name that ends with it, up to a dot.
fn prefix_of<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    name.strip_suffix(end).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// The prefix under which a whole model lies; `model.` where there is none, so that what is missing has its usual name.
fn inner_prefix<'a>(config: &Config, names: &'a [String]) -> Result<&'a str> {
    let mut found: HashMap<&str, usize> = names.iter().filter_map(|n| prefix_of(n, ANCHOR)).map(|p| (p, 0)).collect();
    if found.len() < 2 || found.contains_key("model.") {
        return Ok(found.keys().find(|prefix| found.len() == 1 || **prefix == "model.").copied().unwrap_or("model."));
    }
    for (prefix, count) in &mut found {
        let inside = names.iter().filter_map(|name| name.strip_prefix(prefix));
        *count = inside.filter(|rest| is_weight(config, &format!("model.{rest}"))).count();
    }
    let most = found.values().max().copied().unwrap_or(0);
    let mut best: Vec<&str> = found.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix).collect();
    best.sort_unstable();
    match best[..] {
        [only] => Ok(only),
        _ => Err(Error::tensor(&format!("{}{ANCHOR}", best[0]), format!("is in several models, under {best:?}"))),
    }
}

fn is_weight(config: &Config, canonical: &str) -> bool {
    let in_a_block = |rest: &str| {
        let (block, name) = rest.split_once('.')?;
        let used = block.parse::<usize>().ok()? < config.num_blocks && !block.starts_with('+');
        Some(used && IN_A_BLOCK.contains(&name))
    };
    [EMBEDDING, HEAD, "model.norm.weight"].contains(&canonical)
        || canonical.strip_prefix("model.layers.").and_then(in_a_block).unwrap_or(false)
}

/// Buffers that training code saves beside the weights: rotary tables, positions, masks, counters.
pub(super) fn left_over(name: &str) -> bool {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    name.split('.').any(|part| part == "rotary_emb")
        || leaf.contains("mask")
        || ["inv_freq", "position_ids", "cos_cached", "sin_cached", "num_batches_tracked"].contains(&leaf)
}

/// Whether a further tensor in the blocks that run, or of embedding, norm and head, is a parameter: then the file's model computes
/// with it (biases, norms of queries and keys, adapters).
fn counts(config: &Config, info: &TensorInfo, canonical: &str) -> bool {
    let parameter = [".weight", ".bias"].iter().any(|leaf| canonical.ends_with(leaf));
    let used = match canonical.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((block, _)) => block.parse::<usize>().is_ok_and(|block| block < config.num_blocks),
        None => ["model.embed_tokens.", "model.norm.", "lm_head."].iter().any(|part| canonical.starts_with(part)),
    };
    parameter && used && info.shape.len() <= 2 && !matches!(info.dtype, Dtype::Unread { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn config() -> Config {
        Config::parse(
            r#"{"hidden_size":64,"num_attention_heads":2,"num_hidden_layers":2,"intermediate_size":96,"vocab_size":99}"#,
        )
        .unwrap()
    }

    fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape: shape.to_vec(), rope_pairs: false }
    }

    /// The model's tensors under other names.
    fn renamed(rename: impl Fn(&str) -> String) -> Vec<TensorInfo> {
        synthetic::tensors(&config()).into_iter().map(|t| TensorInfo { name: rename(&t.name), ..t }).collect()
    }

    fn weights(tensors: &[TensorInfo]) -> Vec<String> {
        let weight = |used| match used {
            Use::Weight(name) => Some(name),
            Use::Skipped { .. } => None,
        };
        uses(&config(), tensors).unwrap().into_iter().filter_map(weight).collect()
    }

    #[test]
    fn any_prefix_that_names_share() {
        let names: Vec<String> = synthetic::tensors(&config()).into_iter().map(|t| t.name).collect();
        assert_eq!(weights(&renamed(str::to_owned)), names);
        for prefix in ["_orig_mod.", "module.", "module._orig_mod.", "base_model.model.", "llm.", "a.b.c."] {
            assert_eq!(weights(&renamed(|name| format!("{prefix}{name}"))), names, "{prefix}");
        }
        // Without `model.`, and with another name for it; the head beside the inner model, or beside what is around it.
        for inner in ["", "transformer.", "model.language_model.", "module.decoder.", "language_model.model."] {
            let of = |name: &str| name.strip_prefix("model.").map_or(name.to_owned(), |rest| format!("{inner}{rest}"));
            assert_eq!(weights(&renamed(of)), names, "{inner}");
        }
        let of =
            |name: &str| name.replace("model.", "language_model.model.").replace("lm_head", "language_model.lm_head");
        assert_eq!(weights(&renamed(of)), names);
        // Wrappers around each block.
        let of = |name: &str| name.replace("layers.1.", "layers.1._checkpoint_wrapped_module.");
        assert_eq!(weights(&renamed(of)), names);
    }

    #[test]
    fn what_is_not_needed_is_skipped() {
        let unread = |name: &str| Dtype::Unread { name: name.into(), bits: 64 };
        let expected = Use::Skipped { expected: true };
        let unexpected = Use::Skipped { expected: false };
        for (extra, used) in [
            (info("model.position_ids", unread("I64"), &[1, 8]), &expected),
            (info("model.layers.0.self_attn.causal_mask", unread("BOOL"), &[2, 2]), &expected),
            (info("model.layers.0.self_attn.rotary_emb.inv_freq", unread("F64"), &[8]), &expected),
            (info("model.rotary_emb.cos_cached", Dtype::F32, &[8]), &expected),
            (info("model.layers.0.attn.masked_bias", Dtype::F32, &[]), &expected),
            (info("model.layers.0.self_attn.bias", Dtype::F32, &[1, 1, 9, 9]), &unexpected),
            (info("model.layers.0.self_attn.k_scale", Dtype::F32, &[]), &unexpected),
            (info("model.layers.0.self_attn.q_proj.count", unread("U8"), &[1]), &unexpected),
            (info("model.layers.2.self_attn.q_proj.weight", Dtype::F16, &[64, 64]), &unexpected),
            (info("value_head.weight", Dtype::F32, &[1, 64]), &unexpected),
            (info("vision.layers.0.norm.weight", Dtype::F32, &[64]), &unexpected),
            (info("ema.layers.0.self_attn.q_proj.weight", Dtype::F32, &[64, 64]), &unexpected),
            (info("step", unread("I32"), &[]), &unexpected),
        ] {
            for prefix in ["", "module."] {
                let mut tensors = renamed(|name| format!("{prefix}{name}"));
                tensors.insert(3, TensorInfo { name: format!("{prefix}{}", extra.name), ..extra.clone() });
                assert_eq!(&uses(&config(), &tensors).unwrap()[3], used, "{prefix}{}", extra.name);
            }
        }
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_its_name_in_the_file() {
        for (extra, says) in [
            (info("module.model.layers.1.self_attn.q_proj.bias", Dtype::F16, &[64]), "no place"),
            (info("module.model.layers.0.self_attn.q_norm.weight", Dtype::F32, &[32]), "no place"),
            (info("module.lm_head.bias", Dtype::F32, &[99]), "no place"),
            (info("blk.0.attn_q.bias", Dtype::F32, &[64]), "no place"),
            (info("model.norm.weight", Dtype::F16, &[64]), "stored twice"),
        ] {
            let mut tensors = renamed(|name| format!("module.{name}"));
            tensors.push(extra.clone());
            match uses(&config(), &tensors) {
                Err(Error::Tensor { name, problem }) => {
                    assert_eq!(name, extra.name);
                    assert!(problem.contains(says), "{problem}");
                }
                other => panic!("{}: {other:?}", extra.name),
            }
        }
        let mut tensors = renamed(str::to_owned);
        tensors[4].dtype = Dtype::Unread { name: "I64".into(), bits: 64 };
        assert!(uses(&config(), &tensors).unwrap_err().to_string().contains("dtype I64"));
        let both = [renamed(|name| format!("student.{name}")), renamed(|name| format!("teacher.{name}"))].concat();
        assert!(uses(&config(), &both).unwrap_err().to_string().contains("several models"));
        // Of a whole and a broken one the whole one is meant.
        let part =
            renamed(|name| format!("draft.{name}")).into_iter().filter(|t| !t.name.contains("layers.1")).collect();
        assert_eq!(weights(&[part, renamed(|name| format!("full.{name}"))].concat()).len(), 21);
    }
}
