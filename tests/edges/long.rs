//! Texts that are far too long: they are refused at the cost of a small multiple of their bytes, and hold no short one up.

use crate::patience::soon;
use crate::programs::Program;
use crate::real_models::{SMOLLM2, model_dir};
use crate::support::{Reply, exchange, post};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the process may take beside what it takes for short prompts.
const MORE_BYTES: u64 = 256 << 20;

async fn prompt(address: SocketAddr, text: &str) -> Reply {
    let json = post("content-type: application/json\r\n", &format!(r#"{{"prompt": "{text}", "max_tokens": 1}}"#));
    exchange(address, json.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_long_prompts_cost_little_and_hold_no_short_one_up() {
    let model = model_dir(SMOLLM2);
    let arguments = ["up", model.to_str().unwrap(), "--http", "127.0.0.1:0"];
    let program = Program::fake(&arguments);
    let address: SocketAddr = program.ready(0, 1).await.parse().unwrap();
    assert_eq!(soon("an answer", prompt(address, "short")).await.status, 200);
    let before = program.peak_bytes();
    // What takes a tokenizer most for a byte, over the bound on bytes and under it.
    for (text, bytes) in [("7", 4_000_000), ("'", 4_000_000), (" ", 4_000_000), ("7", 600_000), ("é", 300_000)] {
        let refused = Arc::new(AtomicUsize::new(0));
        let text = Arc::new(text.repeat(bytes));
        let long: Vec<_> = (0..16)
            .map(|_| {
                let (text, refused) = (Arc::clone(&text), Arc::clone(&refused));
                tokio::spawn(async move {
                    let reply = prompt(address, &text).await;
                    refused.fetch_add(1, Ordering::Relaxed);
                    reply
                })
            })
            .collect();
        let short = soon("a short answer", prompt(address, "short")).await;
        assert_eq!(short.status, 200);
        let passed = 16 - refused.load(Ordering::Relaxed);
        for reply in long {
            let reply = soon("a refusal", reply).await.unwrap();
            assert_eq!(reply.status, 400, "{reply:?}");
        }
        assert!(passed > 0, "the short prompt was answered after all the long ones");
    }
    let more = program.peak_bytes().saturating_sub(before);
    assert!(more < MORE_BYTES, "long prompts took {} MiB", more >> 20);
}
