#!/usr/bin/env python3
"""Makes decoders.json: logits of small decoders of random weights, by transformers.

    pip install torch==2.6.0 transformers==4.57.1 numpy && tests/golden/decoders.py > tests/golden/decoders.json

No real weights of these families can be had as a package, so the weights are drawn here as tests/model/random.rs draws
them; their SHA-256 says whether both drew the same.
"""
import hashlib
import json

import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

ALL = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, vocab_size=97, max_position_embeddings=128,
             bos_token_id=None, eos_token_id=0, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
TYPES = ["sliding_attention", "full_attention"]
CONFIGS = [
    LlamaConfig(**SIZES, num_attention_heads=2, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                rope_scaling=LLAMA3, rms_norm_eps=1e-3),
    MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=1, head_dim=32, sliding_window=5),
    Qwen2Config(**SIZES, num_attention_heads=2, num_key_value_heads=2, use_sliding_window=True, sliding_window=7,
                max_window_layers=2, tie_word_embeddings=True),
    Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=32, use_sliding_window=True,
                sliding_window=6, layer_types=TYPES * 2, rms_norm_eps=1e-2),
]
TEXT = 40
STEP = 3


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & ALL
    return z ^ (z >> 31)


class Prng:
    """SplitMix64, as src/base/prng.rs has it."""

    def __init__(self, seed):
        self.state = mix((seed + GOLDEN) & ALL)

    def below(self, n):
        self.state = (self.state + GOLDEN) & ALL
        return mix(self.state) * n >> 64


def draw(name, shape):
    """The tensor called `name`."""
    seed = 5
    for byte in name.encode():
        seed = (seed * 31 + byte) & ALL
    random = Prng(seed)
    one = numpy.float32(1)
    thirds = [[numpy.float32(random.below(2001)) / numpy.float32(1000) - one for _ in range(3)]
              for _ in range(numpy.prod(shape))]
    normal = numpy.array([(a + b) + c for a, b, c in thirds], dtype=numpy.float32)
    if name.endswith(".bias"):
        normal = normal * numpy.float32(0.25)
    elif len(shape) == 1:
        normal = one + normal * numpy.float32(0.25)
    elif "embed_tokens" not in name and "lm_head" not in name:
        normal = numpy.float32(2) * normal / numpy.sqrt(numpy.float32(shape[1]))
    return torch.from_numpy(normal.reshape(shape)).to(torch.bfloat16)


def case(config):
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    weights = {name: draw(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()
               if not (config.tie_word_embeddings and name == "lm_head.weight")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].view(torch.int16).numpy().tobytes())
    random = Prng(40)
    ids = [random.below(config.vocab_size) for _ in range(TEXT)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    config.architectures = [type(model).__name__]
    return {
        "config": json.loads(config.to_json_string()),
        "weights_sha256": digest.hexdigest(),
        "input_ids": ids,
        "logits": [{"position": at, "row": [round(number, 4) for number in logits[at].tolist()]}
                   for at in range(0, TEXT, STEP)],
    }


made_with = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": "float32"}
cases = ",\n".join(json.dumps(case(config)) for config in CONFIGS)
print(f'{{"made_with": {json.dumps(made_with)}, "cases": [\n{cases}\n]}}')
