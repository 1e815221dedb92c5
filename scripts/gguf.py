"""Reads GGUF files (llama.cpp's format): what fetch_models.py needs of it."""
import struct

import numpy as np

SCALAR = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

# ggml type -> (values in a block, bytes of a block)
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}


def read(blob):
    """-> (metadata, {name: (ggml type, shape with rows first, raw bytes)})"""
    pos = 4

    def scalar(layout):
        nonlocal pos
        (value,) = struct.unpack_from(layout, blob, pos)
        pos += struct.calcsize(layout)
        return value

    def string():
        nonlocal pos
        length = scalar("<Q")
        value = blob[pos:pos + length].decode("utf-8")
        pos += length
        return value

    def value_of(kind):
        if kind == STRING:
            return string()
        if kind == ARRAY:
            item = scalar("<I")
            return [value_of(item) for _ in range(scalar("<Q"))]
        return scalar(SCALAR[kind])

    if blob[:4] != b"GGUF":
        raise ValueError("not a GGUF file")
    version, tensor_count, key_count = scalar("<I"), scalar("<Q"), scalar("<Q")
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not supported")
    meta = {}
    for _ in range(key_count):
        key = string()
        meta[key] = value_of(scalar("<I"))
    entries = []
    for _ in range(tensor_count):
        name = string()
        shape = tuple(reversed([scalar("<Q") for _ in range(scalar("<I"))]))
        entries.append((name, scalar("<I"), shape, scalar("<Q")))
    align = meta.get("general.alignment", 32)
    base = pos + (-pos % align)
    tensors = {}
    for name, kind, shape, offset in entries:
        values, size = BLOCK[kind]
        count = int(np.prod(shape)) // values * size
        tensors[name] = (kind, shape, blob[base + offset:base + offset + count])
    return meta, tensors


def dequantize(kind, shape, raw):
    """Raw ggml blocks -> float32 array of `shape`."""
    if kind == F32:
        return np.frombuffer(raw, "<f4").reshape(shape)
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK[kind][1])
    scale = blocks[:, 0:2].copy().view("<f2").astype(np.float32)
    if kind == Q8_0:  # x = scale * q
        return (scale * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
    # Q4_1: x = scale * q + minimum
    minimum = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return (scale * nibbles.astype(np.float32) + minimum).reshape(shape)
