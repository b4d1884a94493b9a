//! GGUF: weights, configuration, tokenizer and chat template in one file (or in the parts of a split one), as llama.cpp has
//! them. Read as a checkpoint in Hugging Face layout: tensors under Hugging Face's names, and the small files made from the
//! header's keys.
//!
//! ```text
//! first bytes -> header: keys, tensors -> plan, as of any other checkpoint
//!                                      -> files: config.json, tokenizer.json or .model, tokenizer_config.json, ...
//! blocks of quantised weights -> blocks: f32
//! ```

pub mod blocks;
mod files;
mod header;
#[cfg(not(target_arch = "wasm32"))]
pub mod write;

#[cfg(test)]
mod tests;

pub use header::Header;

use crate::error::{Error, Result};
use crate::weights::TensorInfo;

/// (GGUF, Hugging Face) names of a block's tensors.
pub const BLOCK_NAMES: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// (GGUF, Hugging Face) names of the other tensors.
pub const TOP_NAMES: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Hugging Face's name of a tensor; `None` for one that the architecture does not have.
fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((_, top)) = TOP_NAMES.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*top).to_owned());
    }
    let (block, kind) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
    let plain = block.parse::<u32>().is_ok_and(|number| number.to_string() == block);
    let (_, rest) = BLOCK_NAMES.iter().find(|(gguf, _)| *gguf == kind && plain)?;
    Some(format!("model.layers.{block}.{rest}.weight"))
}

/// The header's tensors under Hugging Face's names.
///
/// # Errors
/// [`Error::Unsupported`] for a tensor that would change the result and is not computed with.
pub fn tensors(header: &Header) -> Result<Vec<(TensorInfo, u64)>> {
    let tensors = header.tensors.iter().map(|(info, start)| {
        if info.name.starts_with("rope_") || info.name.contains("_exps.") {
            return Err(Error::unsupported(&info.name, "scaled RoPE and mixtures of experts are not computed"));
        }
        // What has no name here has no place in the model: it is refused by its own.
        let name = hugging_face_name(&info.name).unwrap_or_else(|| info.name.clone());
        let rope_pairs = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        Ok((TensorInfo { name, rope_pairs, ..info.clone() }, *start))
    });
    tensors.collect()
}

/// Row in Hugging Face's order (two halves, which RoPE turns against each other) of row `row` in GGUF's (pairs side by side).
pub fn half_split_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// Rows of whole heads, `row_bytes` long, from GGUF's order to Hugging Face's.
pub fn half_split(rows: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = vec![0; rows.len()];
    for (number, row) in rows.chunks_exact(row_bytes).enumerate() {
        out[half_split_row(number, head_dim) * row_bytes..][..row_bytes].copy_from_slice(row);
    }
    out
}

/// Names of all parts of a split file, given one of them such as `model-00001-of-00003.gguf`.
pub fn parts(name: &str) -> Option<Vec<String>> {
    let (start, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = start.rsplit_once('-')?;
    let five = |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    let (number, count): (u32, u32) = (five(number)?, five(count)?);
    let list = || (1..=count).map(|n| format!("{stem}-{n:05}-of-{count:05}.gguf")).collect();
    (1..=count).contains(&number).then(list)
}

/// Checks what the header of part `number` (from 0) of `count` says of the split.
pub fn check_part(header: &Header, number: usize, count: usize) -> Result<()> {
    let refuse = |problem: String| Err(Error::checkpoint(header.file(), problem));
    let claimed = header.whole("split.count")?.unwrap_or(1).max(1);
    if claimed != count as u64 {
        return refuse(match count {
            1 => format!("is a part of {claimed}: a part's name ends with -00001-of-{claimed:05}.gguf"),
            _ => format!("says that there are {claimed} parts, its name says {count}"),
        });
    }
    match header.whole("split.no")? {
        Some(claimed) if count > 1 && claimed != number as u64 => {
            refuse(format!("says that it is part {}, its name says {}", claimed + 1, number + 1))
        }
        _ => Ok(()),
    }
}

/// Checks the number of all parts' tensors against the first part's header.
pub fn check_total(header: &Header, total: usize) -> Result<()> {
    match header.whole("split.tensors.count")? {
        Some(claimed) if claimed != total as u64 => {
            let problem = format!("says that all parts hold {claimed} tensors, they hold {total}");
            Err(Error::checkpoint(header.file(), problem))
        }
        _ => Ok(()),
    }
}
