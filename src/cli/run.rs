//! `run`: what a model does, from a pipeline in this process: answers to prompts, or vectors of texts.

use crate::cli::pipeline::{Outcome, hosted, read_answer, start};
use crate::cli::split::as_error;
use crate::config::RunConfig;
use anyhow::Context;
use futures::stream::{FuturesOrdered, StreamExt};
use serde_json::json;
use stageline_core::Observed;
use stageline_door::{ChatMessage, Conversation, Input, Intake, Request};
use std::io::Write;
use std::process::ExitCode;

/// Prints an answer to each prompt: one as it is made, several in the prompts' order. A model that embeds answers with a vector.
///
/// # Errors
/// One line that says what is wrong with the pipeline, or the first answer that failed.
pub async fn run(config: RunConfig) -> anyhow::Result<ExitCode> {
    let prompts = config.prompts.read()?;
    let host = hosted(&config.source, &config.batching, &config.device, None)?;
    let generates = host.pipeline.task.generates();
    anyhow::ensure!(generates || !config.chat, "--chat is for models that generate, and this one embeds: leave it out");
    let serving = start(&host).await.map_err(as_error)?;
    let reception = serving.reception.clone().context("the pipeline has no door")?;
    let alone = prompts.len() == 1;
    let mut answers = FuturesOrdered::new();
    for (index, prompt) in prompts.into_iter().enumerate() {
        let input = if config.chat {
            Input::Chat(Conversation::of(vec![ChatMessage::new("user", prompt)]))
        } else {
            Input::Text(prompt)
        };
        let call_id = format!("run-{index}");
        let request = if generates { config.answer.request(call_id, input) } else { Request::new(call_id, input) };
        let answer = reception.submit(request).await.map_err(as_error)?;
        let streamed = alone && !config.json && generates;
        answers.push_back(read_answer(answer, move |piece| {
            if streamed {
                print!("{piece}");
                // A closed pipe shows at the next line printed.
                let _ = std::io::stdout().flush();
            }
        }));
    }
    let mut out = std::io::stdout();
    while let Some(outcome) = answers.next().await {
        let outcome = outcome?;
        match (config.json, alone) {
            _ if !generates => print_vector(&outcome, config.json, &mut out)?,
            (true, _) => writeln!(out, "{}", as_json(&outcome))?,
            (false, true) => writeln!(out)?,
            (false, false) => writeln!(out, "{}", outcome.text)?,
        }
    }
    serving.finish().await.map_err(as_error)?;
    Ok(ExitCode::SUCCESS)
}

/// A line for an answer.
pub(super) fn as_json(outcome: &Outcome) -> serde_json::Value {
    let mut line = json!({
        "text": outcome.text,
        "token_ids": outcome.token_ids,
        "prompt_tokens": outcome.prompt_tokens,
        "finish_reason": outcome.finish_reason,
    });
    if !outcome.observed.is_empty() {
        let logits = outcome.observed.iter();
        line["logits"] = logits.map(json_of_logits).collect();
    }
    line
}

/// The logits behind a token.
pub(super) fn json_of_logits(observed: &Observed) -> serde_json::Value {
    json!({ "digest": format!("{:016x}", observed.digest), "top": observed.top })
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
