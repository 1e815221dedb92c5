//! `requests`: the durable requests of a door, as it tells them over HTTP.

use crate::cli::table::Table;
use crate::config::{RequestsConfig, RequestsOrder};
use anyhow::{Context, bail};
use reqwest::{Client, Method, Response};
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the door may take.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// Does what was asked.
///
/// # Errors
/// One line that says what the door refused, or that there is none.
pub async fn requests(config: RequestsConfig) -> anyhow::Result<ExitCode> {
    match &config.order {
        RequestsOrder::List(limit) => {
            let listing = asked(&config, Method::GET, &format!("/requests?limit={limit}")).await?;
            let listing: Value = listing.json().await.context("the door's list cannot be read")?;
            if config.json { println!("{listing:#}") } else { print!("{}", table(&listing)) }
        }
        RequestsOrder::Show(id) => {
            let answer = asked(&config, Method::GET, &format!("/requests/{id}")).await?;
            let answer: Value = answer.json().await.context("the door's answer cannot be read")?;
            match answer["text"].as_str().filter(|_| !config.json) {
                Some(text) => println!("{text}"),
                None => println!("{answer:#}"),
            }
        }
        RequestsOrder::Retry(id) => {
            asked(&config, Method::POST, &format!("/requests/{id}/retry")).await?;
            println!("{id} is tried again");
        }
        RequestsOrder::Cancel(id) => {
            asked(&config, Method::DELETE, &format!("/requests/{id}")).await?;
            println!("{id} ends");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn asked(config: &RequestsConfig, method: Method, path: &str) -> anyhow::Result<Response> {
    let client = Client::builder().connect_timeout(CONNECT).timeout(PATIENCE).build()?;
    let request = client.request(method, format!("{}{path}", config.door));
    let request = match &config.key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    let nobody = || format!("nobody answers at {}: is a door there (--door URL)?", config.door);
    let answer = request.send().await.with_context(nobody)?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(words) => bail!("{words} (status {status})"),
        None => bail!("the door answers with status {status}, and no words"),
    }
}

fn table(listing: &Value) -> Table {
    let mut table = Table::new(["request", "status", "tokens", "age", "call", "principal", "why"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    for request in listing["requests"].as_array().into_iter().flatten() {
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| request[name].as_u64().unwrap_or_default();
        let age = Duration::from_millis(now.saturating_sub(number("accepted_unix_ms")));
        let age = format!("{} s", age.as_secs());
        let tokens = number("answer_tokens").to_string();
        table.row([text("id"), text("status"), tokens, age, text("call_id"), text("principal"), text("why")]);
    }
    table
}
