//! `demo`: eight prompts at once through a pipeline, their answers as they come, and where the time went.

use crate::cli::children::{Children, Orders, free_addresses};
use crate::cli::page::StagePage;
use crate::cli::pipeline::{hosted, read_answer, start};
use crate::cli::split::as_error;
use crate::cli::table::{Table, count, percent};
use crate::config::{DemoConfig, LoggingConfig, NatsConfig, SourceConfig};
use anyhow::{Context, ensure};
use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use stageline_door::stages::StageFacts;
use stageline_door::{ChatMessage, Conversation, Input, Intake, Request};
use stageline_plan::Goal;
use stageline_server::Host;
use stageline_transport::HopKind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const PROMPTS: [&str; 8] = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a haiku about a river.",
    "Name three uses of a paper clip.",
    "What does a compiler do?",
    "Give me a recipe for pancakes in four steps.",
    "Why do leaves turn red in autumn?",
    "Tell me a short story about a lighthouse keeper.",
];
const MAX_TOKENS: u32 = 96;
/// Characters of an answer that its line shows while it is made.
const LINE_CHARS: usize = 100;

/// Runs it.
///
/// # Errors
/// One line that says what is wrong with the pipeline, or the first answer that failed.
pub async fn demo(config: DemoConfig, logging: LoggingConfig) -> anyhow::Result<ExitCode> {
    let source = SourceConfig { folder: config.pipeline.clone(), stages: None, goal: Goal::default() };
    let host = hosted(&source, &config.batching, &config.device, None)?;
    ensure!(host.pipeline.task.generates(), "the demo talks: it needs a decoder, and this model is an encoder");
    let facts = host.blueprint.stages.clone();
    match &config.nats {
        None => embedded(&host, &facts).await?,
        Some(nats) => distributed(&config, nats, &facts, logging).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn embedded(host: &Host, facts: &[StageFacts]) -> anyhow::Result<()> {
    let serving = start(host).await.map_err(as_error)?;
    let reception = serving.reception.clone().context("the pipeline has no door")?;
    let screen = Screen::new();
    let begun = Instant::now();
    let busy = serving.usage.busy_in_all();
    let answers = PROMPTS.iter().enumerate().map(|(index, prompt)| {
        let chat = Conversation::of(vec![ChatMessage::new("user", *prompt)]);
        let request =
            Request { max_tokens: Some(MAX_TOKENS), ..Request::new(format!("demo-{index}"), Input::Chat(chat)) };
        let (reception, line) = (reception.clone(), screen.line(index));
        async move {
            let answer = reception.submit(request).await.map_err(as_error)?;
            let outcome = read_answer(answer, |piece| line.add(piece)).await?;
            line.end();
            anyhow::Ok(outcome.token_ids.len())
        }
    });
    let tokens: usize = futures::future::try_join_all(answers).await?.into_iter().sum();
    let took = begun.elapsed();
    let busy = serving.usage.busy_in_all().saturating_sub(busy);
    let page = host.metrics.render();
    let pages: Vec<StagePage> = (0..facts.len()).map(|stage| StagePage::read(&page, stage)).collect();
    serving.finish().await.map_err(as_error)?;
    stage_table(facts, &pages, took)?;
    let busy = busy.as_secs_f64() / took.as_secs_f64();
    let mut devices = Table::new(["device", "stages", "busy", "bubble"]);
    let stages = format!("0-{}", facts.len() - 1);
    devices.row(["cpu".into(), stages, percent(busy), percent(1.0 - busy)]);
    println!("\n{devices}");
    println!("(Embedded, the CPU is one device: it runs one stage at a time, all of them with every core.)");
    speed(tokens, took);
    Ok(())
}

async fn distributed(
    config: &DemoConfig,
    nats: &NatsConfig,
    facts: &[StageFacts],
    logging: LoggingConfig,
) -> anyhow::Result<()> {
    let orders = Orders {
        pipeline: config.pipeline.clone(),
        http: free_addresses(facts.len())?,
        door: None,
        nats: nats.clone(),
        hop: HopKind::Nats,
        device: config.device.clone(),
        batching: config.batching.clone(),
        logging,
    };
    let addresses = orders.http.clone();
    let mut children = Children::start(orders)?;
    children.ready().await?;
    let door = format!("http://{}/", addresses[0]);
    let screen = Screen::new();
    let begun = Instant::now();
    let answers = PROMPTS.iter().enumerate().map(|(index, prompt)| {
        let (door, line) = (door.clone(), screen.line(index));
        async move {
            let tokens = stream_answer(&door, prompt, |piece| line.add(piece)).await?;
            line.end();
            anyhow::Ok(tokens)
        }
    });
    let tokens: usize = futures::future::try_join_all(answers).await?.into_iter().sum();
    let took = begun.elapsed();
    let mut pages = Vec::new();
    for (stage, address) in addresses.iter().enumerate() {
        let page = direct()?.get(format!("http://{address}/metrics")).send().await?.text().await?;
        pages.push(StagePage::read(&page, stage));
    }
    children.stop().await?;
    stage_table(facts, &pages, took)?;
    let mut devices = Table::new(["device", "stages", "busy", "bubble"]);
    for (stage, page) in pages.iter().enumerate() {
        let share = |seconds: f64| percent(seconds / took.as_secs_f64());
        let (busy, bubble) = (share(page.busy_seconds), share(page.bubble_seconds));
        devices.row([format!("process {stage}"), stage.to_string(), busy, bubble]);
    }
    println!("\n{devices}");
    println!("(A process a stage: all of them share this machine's cores. Bubble: idle while it held requests.)");
    speed(tokens, took);
    Ok(())
}

/// A client of this machine's own processes, which no proxy of the environment is asked to reach.
fn direct() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

/// Sends a prompt to a function door and reads the answer as server-sent events; gives the number of tokens.
async fn stream_answer(door: &str, prompt: &str, mut piece: impl FnMut(&str)) -> anyhow::Result<usize> {
    let body = json!({ "messages": [{ "role": "user", "content": prompt }], "max_tokens": MAX_TOKENS });
    let request = direct()?.post(door).header("Accept", "text/event-stream").json(&body);
    let answer = request.send().await?;
    ensure!(answer.status().is_success(), "the door answers {}: {}", answer.status(), answer.text().await?);
    let mut bytes = answer.bytes_stream();
    let (mut held, mut tokens) = (Vec::new(), 0);
    let mut event = String::new();
    while let Some(chunk) = bytes.next().await {
        held.extend_from_slice(&chunk?);
        while let Some(end) = held.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(name) = line.strip_prefix("event:") {
                event = name.trim().to_owned();
            }
            let Some(text) = line.strip_prefix("data:") else { continue };
            let value: serde_json::Value = serde_json::from_str(text.trim())?;
            piece(value["text"].as_str().unwrap_or_default());
            match event.as_str() {
                "done" => return Ok(tokens),
                "error" => anyhow::bail!("an answer failed: {value}"),
                _ => tokens += 1,
            }
        }
    }
    anyhow::bail!("the stream ended without its last event")
}

/// Where the answers appear: a line each while they are made, then whole.
struct Screen {
    lines: MultiProgress,
}

struct Line {
    bar: ProgressBar,
    lines: MultiProgress,
    prompt: &'static str,
    text: std::sync::Mutex<String>,
}

impl Screen {
    fn new() -> Self {
        Self { lines: MultiProgress::new() }
    }

    fn line(&self, index: usize) -> Line {
        let bar = self.lines.add(ProgressBar::new_spinner().with_prefix(format!("{}", index + 1)));
        let bar = match ProgressStyle::with_template("{prefix} {wide_msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Line { bar, lines: self.lines.clone(), prompt: PROMPTS[index], text: std::sync::Mutex::default() }
    }
}

impl Line {
    fn add(&self, piece: &str) {
        let Ok(mut text) = self.text.lock() else { return };
        *text += piece;
        // The newest of it: the start is printed again at the end.
        let flat: Vec<char> = text.chars().map(|c| if c == '\n' { ' ' } else { c }).collect();
        let tail = flat.len().saturating_sub(LINE_CHARS);
        self.bar.set_message(flat[tail..].iter().collect::<String>());
        self.bar.tick();
    }

    fn end(self) {
        self.bar.finish_and_clear();
        let text = self.text.lock().map(|text| text.clone()).unwrap_or_default();
        let whole = format!("> {}\n{}\n", self.prompt, text.trim());
        // Without a terminal there are no lines to go above.
        if self.lines.is_hidden() { println!("{whole}") } else { drop(self.lines.println(whole)) }
    }
}

fn stage_table(facts: &[StageFacts], pages: &[StagePage], took: Duration) -> anyhow::Result<()> {
    let mut table = Table::new(["stage", "layers", "parameters", "cost", "rows run", "mean batch", "busy"]);
    for (stage, (facts, page)) in facts.iter().zip(pages).enumerate() {
        table.row([
            stage.to_string(),
            format!("{}-{}", facts.layers.start, facts.layers.end - 1),
            count(facts.parameters),
            percent(facts.cost),
            count(page.rows as u64),
            format!("{:.1}", page.rows / page.batches.max(1.0)),
            percent(page.busy_seconds / took.as_secs_f64()),
        ]);
    }
    println!("\n{table}");
    Ok(())
}

fn speed(tokens: usize, took: Duration) {
    let rate = tokens as f64 / took.as_secs_f64();
    println!("{tokens} tokens in {:.1} s: {rate:.0} tokens/s over {} answers", took.as_secs_f64(), PROMPTS.len());
}
