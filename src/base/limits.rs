//! A limit on everything, in one place. Nothing that an outsider sends may make a process grow past these.

/// Most stages of a pipeline.
pub const MAX_STAGES: usize = 1024;
/// Longest X-Call-Id kept, in bytes; a longer one is cut.
pub const MAX_CALL_ID_BYTES: usize = 128;
/// Largest safetensors header read, in bytes (the format's own limit).
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
/// Most bytes of tensors that stay together: what one request brings, or what crosses for it between two stages.
pub const MAX_SET_BYTES: u64 = 32 << 20;
/// The same of rows that stay together: as much as a hop takes at once.
pub const MAX_WHOLE_BYTES: u64 = 64 << 20;
/// Largest config.json, generation_config.json or manifest read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Largest tokenizer.json read, in bytes.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Highest id of a token. The largest public vocabularies have half as many.
pub const MAX_TOKEN_ID: u64 = (1 << 21) - 1;
/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// Most bytes of all tokens of a vocabulary.
pub const MAX_VOCAB_BYTES: usize = 64 << 20;
/// Longest word that a WordPiece tokenizer may cut, in characters; longer ones are unknown as a whole.
pub const MAX_WORD_CHARS: u64 = 256;
/// Most stop strings of a request, and the longest of them in bytes.
pub const MAX_STOP_STRINGS: usize = 16;
/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// Largest number of logits a request may ask to see beside each token.
pub const MAX_TOP_LOGITS: u32 = 20;
/// Longest prompt that a chat template may lay out, in bytes.
pub const MAX_PROMPT_BYTES: usize = 16 << 20;
/// Largest chat template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Most steps that a chat template may take for one conversation (a step is a part of an expression, or 256 bytes worked through).
pub const MAX_TEMPLATE_STEPS: u64 = 1_000_000;
/// Bytes of values that a chat template may make for a conversation without text.
pub const TEMPLATE_BYTES: usize = 32 << 20;
/// How many it may make more for each byte of the conversation's text.
pub const TEMPLATE_BYTES_A_BYTE: usize = 16;
/// Most JSON values of a conversation's messages beside their texts (tool calls and so on), and as many of its tools.
pub const MAX_CHAT_VALUES: usize = 100_000;
/// Most tokens of an answer where the request names no number.
pub const DEFAULT_MAX_TOKENS: u32 = 256;
/// Digits of a manifest's digest that a request may name: its first so many.
pub const DIGEST_DIGITS: std::ops::RangeInclusive<usize> = 8..=64;
