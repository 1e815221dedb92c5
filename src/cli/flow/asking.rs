//! Runs of an engine that runs, as it tells them over HTTP.

use super::tree::Tree;
use crate::cli::table::Table;
use crate::config::{FlowConfig, FlowOrder};
use anyhow::{Context, bail};
use reqwest::{Client, Method, Response};
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the engine may take.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// Asks what was asked.
pub(super) async fn asked(config: &FlowConfig) -> anyhow::Result<ExitCode> {
    match &config.order {
        FlowOrder::List => {
            let (limit, flow, status) = &config.listed;
            let limit = Some(("limit", limit.to_string()));
            let flow = flow.clone().map(|flow| ("flow", flow));
            let status = status.clone().map(|status| ("status", status));
            let query: Vec<_> = [limit, flow, status].into_iter().flatten().collect();
            let listing: Value = answer(config, Method::GET, "/runs", (&query, None)).await?.json().await?;
            if config.json { println!("{listing:#}") } else { print!("{}", table(&listing)) }
        }
        FlowOrder::Show(id) => {
            let query = [("full", String::new())];
            let run: Value = answer(config, Method::GET, &format!("/runs/{id}"), (&query, None)).await?.json().await?;
            if config.json { println!("{run:#}") } else { print!("{}", Tree::of(&run)) }
        }
        FlowOrder::Order(id, word) => {
            let mut query = Vec::new();
            if let (Some(from), "retry") = (&config.from, *word) {
                query.push(("from", from.clone()));
            }
            if config.undo && *word == "cancel" {
                query.push(("undo", "true".to_owned()));
            }
            answer(config, Method::POST, &format!("/runs/{id}/{word}"), (&query, None)).await?;
            told(config, id, word);
        }
        FlowOrder::Signal(id, name, value) => {
            let query = [("name", name.clone())];
            let path = format!("/runs/{id}/signal");
            answer(config, Method::POST, &path, (&query, value.clone())).await?;
            told(config, id, "signal");
        }
        FlowOrder::Check(_) | FlowOrder::Up(_) | FlowOrder::Run(..) | FlowOrder::Export(..) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn told(config: &FlowConfig, id: &str, word: &str) {
    match config.json {
        true => println!("{}", serde_json::json!({ "id": id, "order": word })),
        false => println!("{id}: {word} is in its log"),
    }
}

async fn answer(
    config: &FlowConfig,
    method: Method,
    path: &str,
    (query, body): (&[(&str, String)], Option<String>),
) -> anyhow::Result<Response> {
    let client = Client::builder().connect_timeout(CONNECT).timeout(PATIENCE).build()?;
    let request = client.request(method, format!("{}{path}", config.target)).query(query);
    let request = match &config.key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    let request = match body {
        Some(body) => request.body(body),
        None => request,
    };
    let nobody = || format!("nobody answers at {}: is an engine there (--target URL)?", config.target);
    let answer = request.send().await.with_context(nobody)?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(words) => bail!("{words} (status {status})"),
        None => bail!("the engine answers with status {status}, and no words"),
    }
}

fn table(listing: &Value) -> Table {
    let mut table = Table::new(["run", "flow", "status", "age", "took", "call", "why"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    for run in listing["runs"].as_array().into_iter().flatten() {
        let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
        let began = run["began_unix_ms"].as_u64().unwrap_or_default();
        let age = format!("{} s", now.saturating_sub(began) / 1000);
        let took = run["ended_unix_ms"]
            .as_u64()
            .map_or(String::new(), |end| format!("{:.3} s", end.saturating_sub(began) as f64 / 1000.0));
        let why = run["error"]["reason"].as_str().unwrap_or_default().to_owned();
        table.row([text("id"), text("flow"), text("status"), age, took, text("call_id"), why]);
    }
    table
}
