//! A limit on everything, in one place. Nothing that an outsider sends may make a process grow past these.

/// Most stages of a pipeline.
pub const MAX_STAGES: usize = 1024;
/// Longest X-Call-Id kept, in bytes; a longer one is cut.
pub const MAX_CALL_ID_BYTES: usize = 128;
/// Largest safetensors header read, in bytes (the format's own limit).
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
/// Largest config.json, generation_config.json or manifest read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Largest tokenizer.json read, in bytes.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Most stop strings of a request, and the longest of them in bytes.
pub const MAX_STOP_STRINGS: usize = 16;
/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// Largest number of logits a request may ask to see beside each token.
pub const MAX_TOP_LOGITS: u32 = 20;
/// Longest prompt that a chat template may lay out, in bytes.
pub const MAX_PROMPT_BYTES: usize = 16 << 20;
/// Most steps that a chat template may take for one conversation (a step is one of minijinja's instructions).
pub const MAX_TEMPLATE_STEPS: u64 = 1_000_000;
/// Highest temperature.
pub const MAX_TEMPERATURE: f32 = 100.0;
/// Repetition penalties: beyond these nothing of the model's logits would be left.
pub const PENALTIES: std::ops::RangeInclusive<f32> = 0.01..=100.0;
