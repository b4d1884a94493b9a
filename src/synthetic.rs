//! Seeded synthetic weights: the bits that `tests/reference/synthetic.py` makes, so that the golden tests and the
//! benchmark need no checkpoint.
//!
//! ```text
//! z = splitmix64 mix of (fnv1a64(name) ^ seed) + (i + 1) * 0x9E3779B97F4A7C15
//! u = ((z >> 40) - 2^23) / 2^23                       exact f32 in [-1, 1)
//! element i = f16(center + u * scale)                 f32 operations, each rounded; then to nearest even
//! ```
//! Center and scale follow from name and shape so that logits have a deviation of about 3 and attention is neither
//! uniform nor one-hot.

use crate::config::Config;
use crate::error::Result;
use crate::weights::{Dtype, TensorInfo, TensorSink};
use half::f16;

#[cfg(not(target_arch = "wasm32"))]
pub use files::write_checkpoint;

/// Bytes handed to a sink at a time.
const PIECE: usize = 1 << 20;

/// The tensors that a checkpoint of this configuration stores, all f16, in file order.
pub fn tensors(config: &Config) -> Vec<TensorInfo> {
    let (d, ffn, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (q, kv) = (config.attention_width(), config.kv_width());
    let info = |name: String, shape: Vec<usize>| TensorInfo { name, dtype: Dtype::F16, shape, rope_pairs: false };
    let mut list = vec![info("model.embed_tokens.weight".into(), vec![vocab, d])];
    for block in 0..config.num_blocks {
        let one = |name: &str, shape| info(format!("model.layers.{block}.{name}.weight"), shape);
        list.extend([
            one("input_layernorm", vec![d]),
            one("self_attn.q_proj", vec![q, d]),
            one("self_attn.k_proj", vec![kv, d]),
            one("self_attn.v_proj", vec![kv, d]),
            one("self_attn.o_proj", vec![d, q]),
            one("post_attention_layernorm", vec![d]),
            one("mlp.gate_proj", vec![ffn, d]),
            one("mlp.up_proj", vec![ffn, d]),
            one("mlp.down_proj", vec![d, ffn]),
        ]);
    }
    list.push(info("model.norm.weight".into(), vec![d]));
    if !config.tied {
        list.push(info("lm_head.weight".into(), vec![vocab, d]));
    }
    list
}

/// The elements of one tensor, row-major.
pub fn tensor(name: &str, shape: &[usize], seed: u64) -> impl ExactSizeIterator<Item = f16> + use<> {
    const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let start = fnv1a64(name.as_bytes()) ^ seed;
    let (center, scale) = distribution(name, shape);
    (0..shape.iter().product::<usize>()).map(move |i| {
        let z = start.wrapping_add((i as u64 + 1).wrapping_mul(GAMMA));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = z ^ (z >> 31);
        let u = ((z >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32;
        f16::from_f32(center + u * scale)
    })
}

/// Feeds a whole synthetic checkpoint to the model under construction.
///
/// # Errors
/// Whatever the sink reports.
pub fn load(config: &Config, seed: u64, sink: &mut impl TensorSink) -> Result<()> {
    let list = tensors(config);
    let wanted = sink.begin(&list)?;
    for (index, info) in list.iter().enumerate().filter(|(index, _)| wanted[*index]) {
        let mut offset = 0;
        pieces(info, seed, |piece| {
            sink.write(index, offset, piece)?;
            offset += piece.len() as u64;
            Ok(())
        })?;
    }
    Ok(())
}

/// Little-endian bytes of a tensor, at most [`PIECE`] at a time.
fn pieces<E>(
    info: &TensorInfo,
    seed: u64,
    mut each: impl FnMut(&Vec<u8>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut elements = tensor(&info.name, &info.shape, seed);
    let mut piece = Vec::with_capacity(PIECE.min(2 * elements.len()));
    while elements.len() > 0 {
        piece.clear();
        elements.by_ref().take(PIECE / 2).for_each(|x| piece.extend_from_slice(&x.to_le_bytes()));
        each(&piece)?;
    }
    Ok(())
}

/// Center and half-width of a tensor's uniform distribution.
fn distribution(name: &str, shape: &[usize]) -> (f32, f32) {
    if shape.len() == 1 {
        let center = if name == "model.norm.weight" { 3.0 } else { 1.0 };
        return (center as f32, (0.1 * center) as f32);
    }
    let factor = if name.ends_with(".q_proj.weight") || name.ends_with(".k_proj.weight") { 1.4 } else { 1.0 };
    (0.0, ((3.0 / shape[1] as f64).sqrt() * factor) as f32)
}

pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(not(target_arch = "wasm32"))]
mod files {
    use super::{pieces, tensors};
    use crate::config::Config;
    use crate::error::{Error, Result};
    use crate::weights::TensorInfo;
    use serde_json::{Map, Value, json};
    use std::fs::{self, File};
    use std::io::{BufWriter, Write};
    use std::path::Path;

    /// Writes `config.json` and its synthetic weights into `dir`, which is made if need be: `model.safetensors`, or
    /// with `shards > 1` numbered files of about equal size beside `model.safetensors.index.json`.
    /// Never holds more than one tensor's piece.
    ///
    /// # Errors
    /// What [`Config::parse`] refuses, [`Error::InvalidOption`] for more shards than tensors or none, [`Error::Io`].
    pub fn write_checkpoint(dir: &Path, config_json: &str, seed: u64, shards: usize) -> Result<()> {
        let list = tensors(&Config::parse(config_json)?);
        if !(1..=list.len()).contains(&shards) {
            return Err(Error::option("shards", format!("{shards} is not from 1 to {} (tensors)", list.len())));
        }
        fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        write(&dir.join("config.json"), config_json.as_bytes())?;
        if shards == 1 {
            return write_safetensors(&dir.join("model.safetensors"), &list, seed);
        }
        let mut weight_map = Map::new();
        for (number, group) in split(&list, shards).into_iter().enumerate() {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
            write_safetensors(&dir.join(&name), group, seed)?;
            weight_map.extend(group.iter().map(|t| (t.name.clone(), Value::from(name.as_str()))));
        }
        let total_size: usize = list.iter().map(bytes).sum();
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write(&dir.join("model.safetensors.index.json"), format!("{index:#}").as_bytes())
    }

    /// `shards` consecutive groups, none empty, each cut where the running size passes its share.
    fn split(list: &[TensorInfo], shards: usize) -> Vec<&[TensorInfo]> {
        let total: usize = list.iter().map(bytes).sum();
        let (mut groups, mut start, mut size) = (Vec::new(), 0, 0);
        for end in 1..=list.len() {
            size += bytes(&list[end - 1]);
            let left = shards - groups.len() - 1;
            let full = size * shards >= total * (groups.len() + 1);
            if left > 0 && (full || list.len() - end == left) && list.len() - end >= left {
                groups.push(&list[start..end]);
                start = end;
            }
        }
        groups.push(&list[start..]);
        groups
    }

    fn write_safetensors(path: &Path, list: &[TensorInfo], seed: u64) -> Result<()> {
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
        let mut end = 0;
        for tensor in list {
            let start = end;
            end += bytes(tensor);
            let entry = json!({ "dtype": "F16", "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let out = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            for tensor in list {
                pieces(tensor, seed, |piece| file.write_all(piece))?;
            }
            file.flush()
        };
        out().map_err(|e| failed(path, e))
    }

    fn bytes(tensor: &TensorInfo) -> usize {
        tensor.bytes() as usize
    }

    fn write(path: &Path, content: &[u8]) -> Result<()> {
        fs::write(path, content).map_err(|e| failed(path, e))
    }

    fn failed(path: &Path, error: std::io::Error) -> Error {
        Error::Io { path: path.display().to_string(), problem: error.to_string() }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::collections::BTreeSet;

        /// The files read back by the format's own rules: every tensor once, bytes as generated, index true to the files.
        #[test]
        fn written_files_hold_the_tensors() {
            let golden = super::super::tests::golden("tiny-gqa");
            let config_json = golden["config"].to_string();
            let list = tensors(&Config::parse(&config_json).unwrap());
            for shards in [1, 3] {
                let dir = std::env::temp_dir().join(format!("mobilellm-synthetic-{}-{shards}", std::process::id()));
                write_checkpoint(&dir, &config_json, 5, shards).unwrap();
                assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), config_json);
                let file_of = |name: &str| match fs::read(dir.join("model.safetensors.index.json")) {
                    Ok(index) => {
                        let index: Value = serde_json::from_slice(&index).unwrap();
                        assert_eq!(index["metadata"]["total_size"], list.iter().map(bytes).sum::<usize>());
                        index["weight_map"][name].as_str().unwrap().to_owned()
                    }
                    Err(_) => "model.safetensors".to_owned(),
                };
                let mut files = BTreeSet::new();
                for info in &list {
                    let name = file_of(&info.name);
                    let content = fs::read(dir.join(&name)).unwrap();
                    let start = 8 + u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
                    assert_eq!(start % 8, 0);
                    let header: Value = serde_json::from_slice(&content[8..start]).unwrap();
                    let entry = &header[&info.name];
                    assert_eq!((&entry["dtype"], &entry["shape"]), (&json!("F16"), &json!(info.shape)));
                    let [from, to] = serde_json::from_value::<[usize; 2]>(entry["data_offsets"].clone()).unwrap();
                    let mut expected = Vec::new();
                    pieces(info, 5, |piece| -> Result<()> {
                        expected.extend_from_slice(piece);
                        Ok(())
                    })
                    .unwrap();
                    assert_eq!(content[start + from..start + to], expected, "{}", info.name);
                    files.insert(name);
                }
                assert_eq!(files.len(), shards);
                fs::remove_dir_all(&dir).unwrap();
            }
            for shards in [0, list.len() + 1] {
                let refused = write_checkpoint(Path::new("unused"), &config_json, 5, shards);
                assert!(matches!(refused, Err(Error::InvalidOption { .. })));
            }
        }

        /// Every shard holds whole tensors, none is empty, together they hold the list in order.
        #[test]
        fn shards_are_balanced_and_complete() {
            let list =
                tensors(&Config::parse(&super::super::tests::golden("125m-plain")["config"].to_string()).unwrap());
            for shards in 1..=list.len() {
                let groups = split(&list, shards);
                assert_eq!(groups.len(), shards);
                assert!(groups.iter().all(|g| !g.is_empty()));
                assert_eq!(groups.concat(), list);
            }
            let sizes: Vec<usize> = split(&list, 3).iter().map(|g| g.iter().map(bytes).sum()).collect();
            let total: usize = sizes.iter().sum();
            assert!(sizes.iter().all(|s| s * 2 > total / 3), "{sizes:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;
    use serde_json::Value;

    fn fixture(path: &str) -> Value {
        let path = format!("{}/tests/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    pub(super) fn golden(name: &str) -> Value {
        fixture(&format!("golden/{name}.json"))
    }

    #[test]
    fn equals_python_bit_for_bit() {
        let cases = fixture("synthetic.json");
        assert!(cases.as_array().unwrap().len() > 50);
        for case in cases.as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
            let seed = u64::from_str_radix(case["seed"].as_str().unwrap(), 16).unwrap();
            let values: Vec<f16> = tensor(name, &shape, seed).collect();
            let bits = |range: &[f16]| range.iter().map(|x| x.to_bits()).collect::<Vec<u16>>();
            let expected = |key: &str| serde_json::from_value::<Vec<u16>>(case[key].clone()).unwrap();
            assert_eq!(bits(&values[..4]), expected("first"), "{name}");
            assert_eq!(bits(&values[values.len() - 4..]), expected("last"), "{name}");
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(format!("{:016x}", fnv1a64(&bytes)), case["fnv1a64"], "{name}");
        }
    }

    #[test]
    fn the_list_counts_every_parameter() {
        for name in ["125m-immediate", "350m-block", "1.5b-width-untied", "wide-heads"] {
            let config = Config::parse(&golden(name)["config"].to_string()).unwrap();
            let elements = tensors(&config).iter().map(|t| t.shape.iter().product::<usize>() as u64).sum::<u64>();
            assert_eq!(elements, config.parameters(), "{name}");
        }
    }

    /// Collects the bytes of the tensors that it wants: all but the first.
    #[derive(Default)]
    struct Collector(Vec<Vec<u8>>);

    impl TensorSink for Collector {
        fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
            self.0 = vec![Vec::new(); tensors.len()];
            Ok((0..tensors.len()).map(|i| i > 0).collect())
        }

        fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()> {
            assert_eq!(offset, self.0[tensor].len() as u64);
            let mut copy = vec![0; bytes.len()];
            bytes.read(0, &mut copy);
            self.0[tensor].extend(copy);
            Ok(())
        }
    }

    #[test]
    fn a_sink_gets_what_it_wants_in_pieces() {
        let config = Config::parse(&golden("125m-plain")["config"].to_string()).unwrap();
        let mut sink = Collector::default();
        load(&config, 3, &mut sink).unwrap();
        assert!(sink.0[0].is_empty());
        for (info, bytes) in tensors(&config).iter().zip(&sink.0).skip(1) {
            let expected: Vec<u8> = tensor(&info.name, &info.shape, 3).flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(bytes, &expected, "{}", info.name);
        }
    }
}
