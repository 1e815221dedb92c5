//! `requests`: durable requests, as a door tells them over HTTP or NATS, or as a file holds them that no server has.

use crate::cli::table::Table;
use crate::config::{NatsConfig, RequestsConfig, RequestsOrder, RequestsSource};
use anyhow::{Context, anyhow, bail};
use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use reqwest::{Client, Method};
use serde_json::Value;
use stageline_base::Fault;
use stageline_transport::connect_client;
use stageline_wire::ask_subject;
use std::path::Path;
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
    let answer = match &config.source {
        RequestsSource::Target(url) => said(over_http(url, &config).await?)?,
        RequestsSource::Nats(nats, name) => said(over_nats((nats, name), &config).await?)?,
        RequestsSource::Store(file) => in_file(file, &config.order).await?,
    };
    match &config.order {
        RequestsOrder::List(_) if !config.json => print!("{}", table(&answer)),
        RequestsOrder::List(_) => println!("{answer:#}"),
        RequestsOrder::Show(_) => match answer["text"].as_str().filter(|_| !config.json) {
            Some(text) => println!("{text}"),
            None => println!("{answer:#}"),
        },
        RequestsOrder::Retry(id) => println!("{id} is tried again"),
        RequestsOrder::Cancel(id) => println!("{id} ends"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The method and the path that ask for it.
fn line(order: &RequestsOrder) -> (Method, String) {
    match order {
        RequestsOrder::List(limit) => (Method::GET, format!("/requests?limit={limit}")),
        RequestsOrder::Show(id) => (Method::GET, format!("/requests/{id}")),
        RequestsOrder::Retry(id) => (Method::POST, format!("/requests/{id}/retry")),
        RequestsOrder::Cancel(id) => (Method::DELETE, format!("/requests/{id}")),
    }
}

/// What an answer of this status says.
fn said((status, body): (u16, Vec<u8>)) -> anyhow::Result<Value> {
    if (200..300).contains(&status) {
        let nothing = body.is_empty().then_some(Value::Null);
        return nothing.map_or_else(|| serde_json::from_slice(&body).context("the door's answer cannot be read"), Ok);
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(words) => bail!("{words} (status {status})"),
        None => bail!("the door answers with status {status}, and no words"),
    }
}

async fn over_http(url: &str, config: &RequestsConfig) -> anyhow::Result<(u16, Vec<u8>)> {
    let (method, path) = line(&config.order);
    let client = Client::builder().connect_timeout(CONNECT).timeout(PATIENCE).build()?;
    let request = client.request(method, format!("{url}{path}"));
    let request = match &config.key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    let nobody = || format!("nobody answers at {url}: is a door there (--target URL)?");
    let answer = request.send().await.with_context(nobody)?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await.context("the door's answer broke off")?.to_vec()))
}

async fn over_nats((nats, name): (&NatsConfig, &str), config: &RequestsConfig) -> anyhow::Result<(u16, Vec<u8>)> {
    let (method, path) = line(&config.order);
    let (urls, user) = (nats.urls.join(","), nats.user.as_ref());
    let client = connect_client("stageline requests", &urls, nats.creds.as_deref(), user).await?;
    let mut headers = HeaderMap::new();
    headers.insert("Stageline-Request", format!("{method} {path}"));
    if let Some(key) = &config.key {
        headers.insert("Authorization", format!("Bearer {key}"));
    }
    let subject = ask_subject(name);
    let request = async_nats::Request::new().headers(headers).timeout(Some(PATIENCE));
    let answer = client.send_request(subject.clone(), request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            anyhow!("nobody answers on {subject}: is a door of the pipeline up, and its name right (--name)?")
        }
        _ => anyhow!("the door does not answer on {subject}: {error}"),
    })?;
    let status = answer.headers.as_ref().and_then(|headers| headers.get("Stageline-Status"));
    let status = status.and_then(|status| status.as_str().parse().ok());
    Ok((status.context("the door's answer has no status: is it an older door?")?, answer.payload.to_vec()))
}

/// The same of a file, whose requests no door knows now.
async fn in_file(file: &Path, order: &RequestsOrder) -> anyhow::Result<Value> {
    let fault = |fault: Fault| anyhow!(fault.message);
    let shelf = stageline_server::shelf(file).map_err(fault)?;
    let nothing = || anyhow!("{}: there is no request of this id", file.display());
    let text = match order {
        RequestsOrder::List(limit) => shelf.list(*limit).await.map_err(fault)?,
        RequestsOrder::Show(id) => shelf.show(id).await.map_err(fault)?.ok_or_else(nothing)?,
        RequestsOrder::Retry(id) => shelf.retry(id).await.map_err(fault)?.ok_or_else(nothing)?,
        RequestsOrder::Cancel(id) => match shelf.cancel(id).await.map_err(fault)? {
            true => return Ok(Value::Null),
            false => return Err(nothing()),
        },
    };
    Ok(serde_json::from_str(&text)?)
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
