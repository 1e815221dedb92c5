//! Floor 2: safetensors files: names, headers, reading and writing.
