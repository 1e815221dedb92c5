//! `call`: a stage that is being served, called over gRPC.

use crate::cli::pipeline::Outcome;
use crate::cli::run;
use crate::cli::run::print_vector;
use crate::cli::table::{Table, count, percent};
use crate::config::{AnswerConfig, Ask, CallConfig, Rows};
use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::json;
use stageline_core::Observed;
use stageline_proto::inference::{
    self as pb, generate_event::Event, inference_client::InferenceClient, tensor::Element,
};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// How long to wait for the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest message that is taken: the activations of the longest run.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// The tensor of a file of rows.
const ROWS: &str = "rows";

type Client = InferenceClient<Channel>;

/// Asks, and prints the answer.
///
/// # Errors
/// One line that says what is wrong with the address, the rows or the call.
pub async fn call(config: CallConfig) -> anyhow::Result<ExitCode> {
    let channel = Endpoint::new(format!("http://{}", config.address))?.connect_timeout(CONNECT).connect().await;
    let nobody =
        || format!("nobody answers at {}: is a stage being served there (stageline serve, --http)?", config.address);
    let mut client = Client::new(channel.with_context(nobody)?).max_decoding_message_size(MAX_MESSAGE_BYTES);
    match &config.ask {
        Ask::Status => {
            let status = client.status(timed(pb::StatusRequest {}, &config)).await.map_err(as_error)?.into_inner();
            if config.json { print_json(&as_json(&status))? } else { print_status(&status)? }
        }
        Ask::Prompts(prompts) => {
            let embeds = match client.status(timed(pb::StatusRequest {}, &config)).await {
                Ok(status) => status.into_inner().embeds,
                // Where `admin` is set, prompts go to one address and all else to another.
                Err(status) if status.code() == Code::Unimplemented => false,
                Err(status) => return Err(as_error(status)),
            };
            for prompt in prompts {
                if embeds {
                    embed(&mut client, prompt, &config).await?
                } else {
                    generate(&mut client, prompt, &config).await?
                }
            }
        }
        Ask::Run(rows, save) => run_rows(&mut client, rows, save.as_deref(), &config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn timed<T>(message: T, config: &CallConfig) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(config.timeout);
    request
}

/// The status of a call as people read it.
fn as_error(status: Status) -> anyhow::Error {
    let details = status.get_error_details();
    let stage = details.error_info().and_then(|info| info.metadata.get("stage").cloned());
    let stage = stage.map(|stage| format!(" (stage {stage})")).unwrap_or_default();
    let again = if details.retry_info().is_some() { "; the same call may be sent again" } else { "" };
    anyhow!("{:?}{stage}: {}{again}", status.code(), status.message())
}

async fn generate(client: &mut Client, prompt: &str, config: &CallConfig) -> anyhow::Result<()> {
    let answer: &AnswerConfig = &config.answer;
    let asked = pb::GenerateRequest {
        input: Some(pb::generate_request::Input::Prompt(prompt.to_owned())),
        max_tokens: Some(answer.max_tokens),
        temperature: Some(answer.temperature),
        top_k: Some(answer.top_k),
        top_p: Some(answer.top_p),
        repetition_penalty: Some(answer.repetition_penalty),
        seed: answer.seed,
        stop: answer.stop.clone(),
        top_logits: answer.top_logits,
        ..Default::default()
    };
    let mut events = client.generate(timed(asked, config)).await.map_err(as_error)?.into_inner();
    let mut out = std::io::stdout();
    let mut outcome = Outcome::default();
    while let Some(event) = events.next().await {
        let piece = match event.map_err(as_error)?.event {
            Some(Event::Started(started)) => {
                outcome.prompt_tokens = started.prompt_tokens;
                continue;
            }
            Some(Event::Token(token)) => {
                outcome.token_ids.push(token.id);
                outcome.observed.extend(token.top.map(observed));
                token.text
            }
            Some(Event::Finished(end)) if config.json => {
                outcome.finish_reason = if end.reason() == pb::finished::Reason::Stop { "stop" } else { "length" };
                outcome.text += &end.text;
                return print_json(&run::as_json(&outcome));
            }
            Some(Event::Finished(end)) => {
                writeln!(out, "{}", end.text)?;
                return Ok(());
            }
            None => continue,
        };
        outcome.text += &piece;
        if !config.json {
            write!(out, "{piece}")?;
            out.flush()?;
        }
    }
    bail!("the answer ended without saying how: the stage has stopped")
}

async fn embed(client: &mut Client, text: &str, config: &CallConfig) -> anyhow::Result<()> {
    let asked = pb::EmbedRequest { input: Some(pb::embed_request::Input::Text(text.to_owned())), ..Default::default() };
    let reply = client.embed(timed(asked, config)).await.map_err(as_error)?.into_inner();
    let outcome = Outcome { vector: reply.vector, prompt_tokens: reply.prompt_tokens, ..Outcome::default() };
    print_vector(&outcome, config.json, &mut std::io::stdout())
}

async fn run_rows(client: &mut Client, rows: &Rows, save: Option<&Path>, config: &CallConfig) -> anyhow::Result<()> {
    let input = match rows {
        Rows::Tokens(ids) => {
            let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            pb::Tensor { element: Element::U32.into(), rows: ids.len() as u32, columns: 1, data: data.into() }
        }
        Rows::File(path) => read(path)?,
    };
    let asked = pb::RunRequest { input: Some(input), top_logits: config.answer.top_logits, stage: None };
    let reply = client.run(timed(asked, config)).await.map_err(as_error)?.into_inner();
    let top = reply.top.map(observed);
    let output = reply.output.context("the stage answered without rows")?;
    if let Some(path) = save {
        write(path, &output)?;
    }
    let words: Vec<[u8; 4]> = output.data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
    let tokens = output.element() == Element::U32;
    let number = |word: &[u8; 4]| {
        if tokens { u32::from_le_bytes(*word).to_string() } else { f32::from_le_bytes(*word).to_string() }
    };
    if config.json {
        let shape = json!([output.rows, output.columns]);
        let mut line = json!({ "shape": shape, "element": output.element().as_str_name() });
        if tokens {
            line["token_ids"] = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        }
        if let Some(top) = &top {
            line["logits"] = run::json_of_logits(top);
        }
        return print_json(&line);
    }
    let mut out = std::io::stdout();
    let shown: Vec<String> = words.iter().take(4).map(number).collect();
    let more = if words.len() > shown.len() { " ..." } else { "" };
    let what = if tokens { "token" } else { "activations" };
    writeln!(out, "{what} [{}, {}]: {}{more}", output.rows, output.columns, shown.join(" "))?;
    for (id, logit) in top.iter().flat_map(|observed| &observed.top) {
        writeln!(out, "  {id:>8}  {logit}")?;
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<pb::Tensor> {
    let wrong = || format!("{} is no safetensors file with a tensor `{ROWS}` of two dimensions", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(wrong)?;
    let view = file.tensor(ROWS).with_context(wrong)?;
    let element = match view.dtype() {
        Dtype::F32 => Element::F32,
        Dtype::U32 => Element::U32,
        other => bail!("{}: `{ROWS}` must be F32 or U32, not {other:?}", path.display()),
    };
    let [rows, columns] = *view.shape() else { bail!(wrong()) };
    let (rows, columns) = (u32::try_from(rows).with_context(wrong)?, u32::try_from(columns).with_context(wrong)?);
    Ok(pb::Tensor { element: element.into(), rows, columns, data: view.data().to_vec().into() })
}

fn write(path: &Path, tensor: &pb::Tensor) -> anyhow::Result<()> {
    let dtype = if tensor.element() == Element::U32 { Dtype::U32 } else { Dtype::F32 };
    let shape = vec![tensor.rows as usize, tensor.columns as usize];
    let view = TensorView::new(dtype, shape, &tensor.data).context("the stage answered with a tensor that is none")?;
    let bytes = serialize([(ROWS, view)], None)?;
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{value}")?)
}

fn observed(top: pb::TopLogits) -> Observed {
    Observed { digest: top.digest, top: top.ids.into_iter().zip(top.logits).collect() }
}

fn as_json(status: &pb::StatusReply) -> serde_json::Value {
    let here = status.here.iter().map(|stage| {
        json!({
            "stage": stage.stage, "queued_rows": stage.queued_rows, "live_sequences": stage.live_sequences,
            "kv_blocks_total": stage.kv_blocks_total, "kv_blocks_free": stage.kv_blocks_free, "hop": stage.hop,
            "columns": stage.columns,
        })
    });
    let replicas = status.replicas.iter().map(|replica| {
        json!({
            "id": replica.id, "stage": replica.stage, "phase": replica.phase,
            "started_unix_ms": replica.started_unix_ms, "kv_blocks_total": replica.kv_blocks_total,
            "kv_blocks_free": replica.kv_blocks_free, "max_model_len": replica.max_model_len,
            "live_sequences": replica.live_sequences,
        })
    });
    let stages = status.stages.iter().map(|stage| {
        json!({
            "stage": stage.stage, "layers": [stage.first_layer, stage.end_layer], "parameters": stage.parameters,
            "cost": stage.cost,
        })
    });
    json!({
        "pipeline": status.pipeline, "manifest": status.manifest, "embeds": status.embeds, "vocab": status.vocab,
        "stages": stages.collect::<Vec<_>>(), "here": here.collect::<Vec<_>>(), "replicas": replicas.collect::<Vec<_>>(),
        "waiting_requests": status.waiting_requests, "calls_in_flight": status.calls_in_flight,
    })
}

fn print_status(status: &pb::StatusReply) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let does = if status.embeds { "an encoder" } else { "a decoder" };
    let digest = status.manifest.get(..8).unwrap_or(&status.manifest);
    let (vocab, stages) = (status.vocab, status.stages.len());
    writeln!(out, "{}: {does}, vocabulary {vocab}, cut into {stages}; digest {digest}", status.pipeline)?;
    writeln!(out, "{} calls in flight, {} requests wait for room\n", status.calls_in_flight, status.waiting_requests)?;
    let mut cut =
        Table::new(["stage", "layers", "parameters", "cost", "replicas", "KV blocks free", "sequences", "here"]);
    for stage in &status.stages {
        let replicas: Vec<&pb::Replica> = status.replicas.iter().filter(|r| r.stage == stage.stage).collect();
        let free: u64 = replicas.iter().map(|r| u64::from(r.kv_blocks_free)).sum();
        let total: u64 = replicas.iter().map(|r| u64::from(r.kv_blocks_total)).sum();
        let live: u64 = replicas.iter().map(|r| u64::from(r.live_sequences)).sum();
        let here = status.here.iter().find(|here| here.stage == stage.stage).map(|here| {
            let hop = if here.hop.is_empty() { String::new() } else { format!(", on by {}", here.hop) };
            format!("{} rows queued{hop}", here.queued_rows)
        });
        let phases: Vec<&str> = replicas.iter().map(|r| r.phase.as_str()).collect();
        cut.row([
            stage.stage.to_string(),
            format!("{}..{}", stage.first_layer, stage.end_layer),
            count(stage.parameters),
            percent(stage.cost),
            if phases.is_empty() { "none".into() } else { phases.join(", ") },
            format!("{free} of {total}"),
            live.to_string(),
            here.unwrap_or_default(),
        ]);
    }
    cut.write(&mut out)?;
    Ok(())
}
