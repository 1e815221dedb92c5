//! `flow`: flow files and their runs.

mod asking;
mod engine;
mod tree;

use crate::config::{FlowConfig, FlowOrder, FlowShape};
use anyhow::{Context, bail};
use stageline_flow::definition::{File, Flow};
use stageline_flow::{export, file};
use std::path::Path;
use std::process::ExitCode;

/// Does what was asked.
///
/// # Errors
/// One line that says what is wrong, or what the engine refused.
pub async fn flow(config: FlowConfig) -> anyhow::Result<ExitCode> {
    match &config.order {
        FlowOrder::Check(path) => check(path, config.json),
        FlowOrder::Export(path, name) => exported(path, name, config.format),
        FlowOrder::Up(path) => engine::up(&config, path).await,
        FlowOrder::Run(path, name) => engine::run(&config, path, name).await,
        _ => asking::asked(&config).await,
    }
}

/// The text of a flow file, and what it says. What is wrong with it is printed, one line each.
///
/// # Errors
/// How much is wrong, or that it cannot be read.
fn opened(path: &Path) -> anyhow::Result<(String, File)> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let text = String::from_utf8(text).ok().with_context(|| format!("{} is no text in UTF-8", path.display()))?;
    let read = file::read(&text);
    for warning in &read.warnings {
        eprintln!("{}:{}: warning: {}", path.display(), warning.place, warning.words);
    }
    for problem in &read.problems {
        eprintln!("{}:{}: {}", path.display(), problem.place, problem.words);
    }
    match (read.file, read.problems.len()) {
        (Some(file), _) => Ok((text, file)),
        (None, 1) => bail!("{}: one thing is wrong", path.display()),
        (None, problems) => bail!("{}: {problems} things are wrong", path.display()),
    }
}

fn check(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let read = file::read(&text);
        let told = |problems: &[file::Problem]| -> serde_json::Value {
            let one = |problem: &file::Problem| serde_json::json!({ "line": problem.place.line, "column": problem.place.column, "message": problem.words });
            problems.iter().map(one).collect()
        };
        println!("{:#}", serde_json::json!({ "problems": told(&read.problems), "warnings": told(&read.warnings) }));
        return Ok(if read.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (_, file) = opened(path)?;
    for flow in file.flows.values() {
        println!("{}: {} nodes", flow.name, flow.graph.nodes.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// The flow of that name.
///
/// # Errors
/// Which there are.
fn named<'f>(file: &'f File, path: &Path, name: &str) -> anyhow::Result<&'f Flow> {
    let names: Vec<&str> = file.flows.keys().map(String::as_str).collect();
    let missing = || format!("{} has no flow `{name}`: it has {}", path.display(), names.join(", "));
    file.flows.get(name).with_context(missing)
}

fn exported(path: &Path, name: &str, shape: FlowShape) -> anyhow::Result<ExitCode> {
    let (_, file) = opened(path)?;
    let flow = named(&file, path, name)?;
    match shape {
        FlowShape::Mermaid => print!("{}", export::mermaid(flow)),
        FlowShape::Dot => print!("{}", export::dot(flow)),
        FlowShape::Json => println!("{:#}", export::json(flow)),
        FlowShape::Dag => println!("{:#}", export::dag(flow)),
    }
    Ok(ExitCode::SUCCESS)
}
