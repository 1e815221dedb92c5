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
/// What a tensor of a file may be called that is all that a stage takes.
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
        stop: answer.stop.clone(),
        ..Default::default()
    };
    let asked = asked.with_sampling(answer.sampling);
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
                outcome.token_ids.push(token.token_id);
                outcome.observed.extend(token.logits.map(observed));
                token.text
            }
            Some(Event::Finished(end)) if config.json => {
                outcome.finish_reason =
                    if end.finish_reason() == pb::finished::Reason::Stop { "stop" } else { "length" };
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
    let asked =
        pb::EmbedRequest { given: Some(pb::embed_request::Given::Input(text.to_owned())), ..Default::default() };
    let reply = client.embed(timed(asked, config)).await.map_err(as_error)?.into_inner();
    let outcome = Outcome { vector: reply.embedding, prompt_tokens: reply.prompt_tokens, ..Outcome::default() };
    print_vector(&outcome, config.json, &mut std::io::stdout())
}

async fn run_rows(client: &mut Client, rows: &Rows, save: Option<&Path>, config: &CallConfig) -> anyhow::Result<()> {
    let inputs = match rows {
        Rows::Tokens(ids) => {
            let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            let shape = vec![ids.len() as u64, 1];
            vec![pb::Tensor { element: Element::U32.into(), shape, data: data.into(), ..Default::default() }]
        }
        Rows::File(path) => read(path)?,
    };
    let asked = pb::RunRequest { inputs, top_logits: config.answer.sampling.or(0).top_logits, stage: None };
    let reply = client.run(timed(asked, config)).await.map_err(as_error)?.into_inner();
    let top = reply.logits.map(observed);
    let outputs = reply.outputs;
    if let Some(path) = save {
        write(path, &outputs)?;
    }
    if config.json {
        return print_json(&line_of(&outputs, top.as_ref()));
    }
    let mut out = std::io::stdout();
    for tensor in &outputs {
        let shown: Vec<String> = numbers(tensor).take(4).collect();
        let more = if tensor.shape.iter().product::<u64>() > shown.len() as u64 { " ..." } else { "" };
        writeln!(out, "{} {:?}: {}{more}", tensor.name, tensor.shape, shown.join(" "))?;
    }
    for (id, logit) in top.iter().flat_map(|observed| &observed.top) {
        writeln!(out, "  {id:>8}  {logit}")?;
    }
    Ok(())
}

/// What a stage made of rows, for programs: its tensors, and of a single one its shape and type too.
fn line_of(outputs: &[pb::Tensor], top: Option<&Observed>) -> serde_json::Value {
    let facts = |tensor: &pb::Tensor| json!({ "shape": tensor.shape, "element": tensor.element().as_str_name() });
    let named = |tensor: &pb::Tensor| {
        let mut line = facts(tensor);
        line["name"] = tensor.name.as_str().into();
        line
    };
    let mut line = match outputs {
        [only] => facts(only),
        _ => json!({}),
    };
    line["tensors"] = outputs.iter().map(named).collect();
    if let [only] = outputs
        && only.element() == Element::U32
    {
        line["token_ids"] = words(only).map(u32::from_le_bytes).collect();
    }
    if let Some(top) = top {
        line["logits"] = run::json_of_logits(top);
    }
    line
}

/// The elements of a tensor, as they are read.
fn numbers(tensor: &pb::Tensor) -> Box<dyn Iterator<Item = String> + '_> {
    let halves = || tensor.data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match tensor.element() {
        Element::U32 => Box::new(words(tensor).map(|word| u32::from_le_bytes(word).to_string())),
        Element::I32 => Box::new(words(tensor).map(|word| i32::from_le_bytes(word).to_string())),
        Element::F16 => Box::new(halves().map(|bits| half::f16::from_bits(bits).to_string())),
        Element::Bf16 => Box::new(halves().map(|bits| half::bf16::from_bits(bits).to_string())),
        Element::I64 => Box::new(tensor.data.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word).to_string())),
        Element::U8 | Element::Bool => Box::new(tensor.data.iter().map(u8::to_string)),
        Element::F32 | Element::Unknown => Box::new(words(tensor).map(|word| f32::from_le_bytes(word).to_string())),
    }
}

fn words(tensor: &pb::Tensor) -> impl Iterator<Item = [u8; 4]> + '_ {
    tensor.data.as_chunks().0.iter().copied()
}

/// Element types, as safetensors files name them.
const DTYPES: [(Dtype, Element); 8] = [
    (Dtype::F32, Element::F32),
    (Dtype::F16, Element::F16),
    (Dtype::BF16, Element::Bf16),
    (Dtype::I64, Element::I64),
    (Dtype::I32, Element::I32),
    (Dtype::U32, Element::U32),
    (Dtype::U8, Element::U8),
    (Dtype::BOOL, Element::Bool),
];

/// The tensors of a file. One called `rows` goes by its place, whatever the stage calls what it takes.
fn read(path: &Path) -> anyhow::Result<Vec<pb::Tensor>> {
    let wrong = || format!("{} is no safetensors file of tensors for a stage", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(wrong)?;
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let element = DTYPES.iter().find(|(dtype, _)| *dtype == view.dtype()).map(|(_, element)| *element);
        let element = element.with_context(|| format!("{}: `{name}` is {:?}", path.display(), view.dtype()))?;
        let shape = view.shape().iter().map(|extent| *extent as u64).collect();
        let (name, data) = (if name == ROWS { String::new() } else { name }, view.data().to_vec().into());
        Ok(pb::Tensor { element: element.into(), shape, name, data, ..Default::default() })
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn write(path: &Path, tensors: &[pb::Tensor]) -> anyhow::Result<()> {
    fn view(tensor: &pb::Tensor) -> anyhow::Result<(String, TensorView<'_>)> {
        let dtype = DTYPES.iter().find(|(_, element)| *element == tensor.element()).map(|(dtype, _)| *dtype);
        let shape = tensor.shape.iter().map(|extent| *extent as usize).collect();
        let none = "the stage answered with a tensor that is none";
        Ok((tensor.name.clone(), TensorView::new(dtype.context(none)?, shape, &tensor.data).context(none)?))
    }
    let views = tensors.iter().map(view).collect::<anyhow::Result<Vec<_>>>()?;
    std::fs::write(path, serialize(views, None)?).with_context(|| format!("cannot write {}", path.display()))
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
        "requests_waiting": status.requests_waiting, "requests_in_flight": status.requests_in_flight,
    })
}

fn print_status(status: &pb::StatusReply) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let does = if status.embeds { "an encoder" } else { "a decoder" };
    let digest = status.manifest.get(..8).unwrap_or(&status.manifest);
    let (vocab, stages) = (status.vocab, status.stages.len());
    writeln!(out, "{}: {does}, vocabulary {vocab}, cut into {stages}; digest {digest}", status.pipeline)?;
    writeln!(
        out,
        "{} requests in flight, {} of them wait for room\n",
        status.requests_in_flight, status.requests_waiting
    )?;
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
