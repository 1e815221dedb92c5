//! `embed`: vectors of texts, from a pipeline in this process.

use crate::cli::pipeline::{Outcome, hosted, read_answer, start};
use crate::cli::split::said;
use crate::config::EmbedConfig;
use anyhow::Context;
use futures::stream::{FuturesOrdered, StreamExt};
use serde_json::json;
use stageline_door::{Input, Intake, Request};
use std::io::Write;
use std::process::ExitCode;

/// Prints each text's vector, in the texts' order.
///
/// # Errors
/// One line that says what is wrong with the pipeline, or the first text that failed.
pub async fn embed(config: EmbedConfig) -> anyhow::Result<ExitCode> {
    let texts = config.prompts.read()?;
    let host = hosted(&config.source, &config.batching, &config.device, None)?;
    anyhow::ensure!(!host.pipeline.task.generates(), "this model is a decoder: use `stageline run`");
    let serving = start(&host).await?;
    let reception = serving.reception.clone().context("the pipeline has no door")?;
    let mut answers = FuturesOrdered::new();
    for (index, text) in texts.into_iter().enumerate() {
        let request = Request::new(format!("embed-{index}"), Input::Text(text));
        let answer = reception.submit(request).await.map_err(said)?;
        answers.push_back(read_answer(answer, |_| {}));
    }
    let mut out = std::io::stdout();
    while let Some(outcome) = answers.next().await {
        print_vector(&outcome?, config.json, &mut out)?;
    }
    serving.finish().await.map_err(said)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a text's vector: its numbers, or a JSON line.
pub(super) fn print_vector(outcome: &Outcome, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        let line = json!({ "embedding": outcome.vector, "prompt_tokens": outcome.prompt_tokens });
        writeln!(out, "{line}")?;
    } else {
        let numbers: Vec<String> = outcome.vector.iter().map(f32::to_string).collect();
        writeln!(out, "{}", numbers.join(" "))?;
    }
    Ok(())
}
