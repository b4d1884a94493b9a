//! Checkpoints from their sources to a sink.

use mobilellm_web::error::Result;
use mobilellm_web::weights::source::{DirSource, NativeHost, NoStore};
use mobilellm_web::weights::{Bytes, Checkpoint, Options, TensorInfo, TensorSink};
use std::collections::BTreeMap;

/// Puts tensors together and insists that their bytes come in order.
#[derive(Default)]
struct Collected {
    infos: Vec<TensorInfo>,
    bytes: Vec<Vec<u8>>,
    unwanted: &'static str,
}

impl TensorSink for Collected {
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
        self.infos = tensors.to_vec();
        self.bytes = vec![Vec::new(); tensors.len()];
        Ok(tensors.iter().map(|t| t.name != self.unwanted).collect())
    }

    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()> {
        assert_eq!(offset, self.bytes[tensor].len() as u64, "{}: bytes out of order", self.infos[tensor].name);
        let mut part = vec![0; bytes.len()];
        bytes.read(0, &mut part);
        self.bytes[tensor].extend(part);
        Ok(())
    }
}

impl Collected {
    fn by_name(self) -> BTreeMap<String, (TensorInfo, Vec<u8>)> {
        self.infos.into_iter().zip(self.bytes).map(|(t, b)| (t.name.clone(), (t, b))).collect()
    }
}

fn load_dir(folder: &str, unwanted: &'static str) -> Result<BTreeMap<String, (TensorInfo, Vec<u8>)>> {
    pollster::block_on(async {
        let source = DirSource::new(folder);
        let checkpoint =
            Checkpoint::open(NativeHost::default(), source, NoStore::default(), Options::default(), |_| {}).await?;
        let mut sink = Collected { unwanted, ..Collected::default() };
        checkpoint.load(&mut sink).await?;
        Ok(sink.by_name())
    })
}

#[test]
fn demo_from_a_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/www/models/demo");
    let tensors = load_dir(folder, "model.norm.weight").unwrap();
    let mut left = tensors.len();
    for shard in std::fs::read_dir(folder).unwrap() {
        let path = shard.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        // Read in the plainest way that the format allows.
        let file = std::fs::read(path).unwrap();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
        for (name, entry) in json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let at = |n: usize| header + entry["data_offsets"][n].as_u64().unwrap() as usize;
            let (info, bytes) = &tensors[name];
            if name == "model.norm.weight" {
                assert!(bytes.is_empty());
            } else {
                assert!(bytes == &file[at(0)..at(1)], "{name}");
            }
            assert_eq!(entry["shape"], serde_json::json!(info.shape));
            left -= 1;
        }
    }
    assert_eq!(left, 0);
}
