"""Does a converted checkpoint load back in torch and transformers with equal tensors?

    mobilellm convert tests/fixtures/checkpoints/torch-bf16 OUT --shard-size 20KB
    python tests/reference/check_converted.py tests/fixtures/checkpoints/torch-bf16 OUT
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

source, out = map(Path, sys.argv[1:])
expected = torch.load(source / "pytorch_model.bin", weights_only=True)
shards = sorted(out.glob("*.safetensors"))
got = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
assert expected.keys() == got.keys()
assert all(torch.equal(expected[name].to(torch.float16), got[name]) for name in got)

# transformers has no `mobilellm`: its LLaMA is the same arithmetic and reads the same names.
config = json.loads((out / "config.json").read_text())
config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
with tempfile.TemporaryDirectory() as folder:
    for file in out.iterdir():
        (Path(folder) / file.name).write_bytes(file.read_bytes())
    (Path(folder) / "config.json").write_text(json.dumps(config))
    model, info = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16, output_loading_info=True)
assert not any(info.values()), info
state = model.state_dict()
assert all(torch.equal(state[name], got[name]) for name in got)
print(f"{len(got)} tensors in {len(shards)} shards are equal")
