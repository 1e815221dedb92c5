//! The settings of `load`.

use crate::config::checked::{BatchingConfig, DeviceConfig, SourceConfig};
use crate::config::raw::Reader;
use crate::config::settings as s;
use crate::config::{check, parse};
use stageline_base::sampling::TEMPERATURE;
use stageline_load::sweep::Sweep;
use stageline_load::{Amount, Arrivals, Lengths, Objective, Scenario, Shape};
use std::path::PathBuf;
use std::time::Duration;

/// `stageline load`.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadConfig {
    /// Send a load.
    Run(Box<LoadRun>),
    /// Put two reports side by side.
    Compare(PathBuf, PathBuf),
}

/// A load to send, and where its report goes.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadRun {
    /// Where to.
    pub target: TargetConfig,
    /// Whether the model of a server encodes.
    pub embeds: bool,
    /// What, how and for how long.
    pub scenario: Scenario,
    /// Several loads, one after another.
    pub sweep: Option<Sweep>,
    /// Share of good requests, 0 to 1, that a load within the knee has.
    pub knee_share: f64,
    /// Metrics pages; empty: the target's own, if it has one.
    pub metrics: Vec<String>,
    /// File of prompts.
    pub prompt_file: Option<PathBuf>,
    /// File of arrivals.
    pub replay: Option<PathBuf>,
    /// Where the JSON goes.
    pub out: Option<PathBuf>,
    /// Where the page goes.
    pub html: Option<PathBuf>,
    /// Print JSON rather than a table.
    pub json: bool,
    /// The device of an embedded pipeline.
    pub device: DeviceConfig,
    /// Its batching.
    pub batching: BatchingConfig,
}

/// What takes the requests.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetConfig {
    /// A function door.
    Http(String),
    /// A door's gRPC client service.
    Grpc(String),
    /// `Run` on one stage.
    Stage(String),
    /// A door behind a broker: its URL, the pipeline's name, credentials.
    Nats(String, String, Option<PathBuf>),
    /// A pipeline in this process.
    Embedded(SourceConfig),
}

impl TargetConfig {
    /// The URL of the server that takes the requests, where there is one.
    pub fn server(&self) -> Option<&str> {
        match self {
            Self::Http(url) | Self::Grpc(url) | Self::Stage(url) => Some(url),
            Self::Nats(..) | Self::Embedded(_) => None,
        }
    }
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self::Http(String::new())
    }
}

pub(super) fn load(r: &mut Reader) -> LoadConfig {
    let words = r.all(&s::LOAD_WORDS, parse::text);
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["compare", a, b] => return LoadConfig::Compare(a.into(), b.into()),
        _ => {
            // Whoever meant to compare need not be asked for a target.
            let typed = words.join(" ");
            r.problems.0.push(format!("`{typed}`: compare A.json B.json is expected, or nothing to send a load"));
            return LoadConfig::Compare(PathBuf::new(), PathBuf::new());
        }
    }
    let target = r.value(&s::TARGET, parse::text);
    let shape = shape(r);
    let replayed = matches!(shape, Shape::Replay { .. });
    let prompt_file = r.optional(&s::LOAD_PROMPT_FILE, parse::file);
    let run = LoadRun {
        scenario: Scenario {
            target: target.clone(),
            stream: r.switch(&s::STREAM),
            amount: amount(r, replayed),
            warm_up: r.value(&s::WARM_UP, warm_up).unwrap_or(Amount::Requests(0)),
            drain: r.value(&s::DRAIN, parse::duration),
            max_outstanding: r.value(&s::MAX_OUTSTANDING, parse::count(1..=1 << 20)),
            seed: r.value(&s::LOAD_SEED, parse::count(0..=u64::MAX)),
            prompt_tokens: lengths(r, &s::PROMPT_TOKENS),
            token_ids: r.value(&s::TOKEN_IDS, token_ids),
            prompt_file: prompt_file.as_ref().map(|path| path.display().to_string()),
            output_tokens: lengths(r, &s::OUTPUT_TOKENS),
            temperature: r.value(&s::TEMPERATURE, parse::within(TEMPERATURE)),
            deadline: r.optional(&s::DEADLINE, parse::duration),
            objective: r.optional(&s::OBJECTIVE, |text| Objective::parse(text, parse::duration)).unwrap_or_default(),
            shape,
        },
        target: kind(r, &target),
        embeds: r.switch(&s::EMBEDS),
        sweep: None,
        knee_share: f64::from(r.value(&s::KNEE, parse::real(0.01..=1.0))),
        metrics: r.optional(&s::METRICS, urls).unwrap_or_default(),
        prompt_file,
        replay: r.optional(&s::REPLAY, parse::file),
        out: r.optional(&s::REPORT, parse::path),
        html: r.optional(&s::HTML, parse::path),
        json: r.switch(&s::JSON),
        device: check::device(r),
        batching: check::batching(r),
    };
    let sweep = sweep(r, &run.scenario.shape);
    rules(r, &run);
    LoadConfig::Run(Box::new(LoadRun { sweep, ..run }))
}

fn rules(r: &mut Reader, run: &LoadRun) {
    let objective = run.scenario.objective;
    let sees_tokens = match run.target {
        TargetConfig::Http(_) | TargetConfig::Nats(..) => run.scenario.stream,
        TargetConfig::Grpc(_) | TargetConfig::Embedded(_) => true,
        TargetConfig::Stage(..) => false,
    };
    if objective.needs_stream() && !sees_tokens {
        let origin = r.origin(&s::OBJECTIVE);
        let how = match run.target {
            TargetConfig::Stage(..) => "a stage's Run gives one answer: bound e2e",
            _ => "add --stream, or bound e2e only",
        };
        r.problems.0.push(format!("{origin}: no time of single tokens is seen here: {how}"));
    }
    if run.scenario.token_ids.0 >= run.scenario.token_ids.1 {
        r.problems.0.push(format!("{}: the first id is expected to be below the last", r.origin(&s::TOKEN_IDS)));
    }
}

/// What the words of `--target` mean.
fn kind(r: &mut Reader, target: &str) -> TargetConfig {
    let scheme = target.split_once("://").map(|(scheme, _)| scheme);
    let run = r.switch(&s::RUN_STAGE);
    let origin = r.origin(&s::TARGET);
    if run && !matches!(scheme, Some("grpc")) {
        r.problems.0.push(format!("--run: a stage is called by gRPC: give --target grpc://HOST:PORT, not `{target}`"));
    }
    match scheme {
        Some("http") => TargetConfig::Http(target.to_owned()),
        Some("grpc") if run => TargetConfig::Stage(target.to_owned()),
        Some("grpc") => TargetConfig::Grpc(target.to_owned()),
        Some("nats" | "tls") => {
            let name = r.optional(&s::NAME, parse::name);
            if name.is_none() {
                let hint = "which pipeline? Give its --name; `stageline inspect` shows it";
                r.problems.0.push(format!("{origin}: `{target}`: {hint}"));
            }
            let creds = r.optional(&s::NATS_CREDS, parse::file);
            TargetConfig::Nats(target.to_owned(), name.unwrap_or_default(), creds)
        }
        Some(_) => {
            let allowed = "http://, grpc://, nats:// or a folder is expected";
            r.problems.0.push(format!("{origin}: `{target}`: {allowed}"));
            TargetConfig::default()
        }
        None => {
            if !target.is_empty() && parse::folder(target).is_err() {
                let hint = format!("there is no such folder; for a server, write http://{target}");
                r.problems.0.push(format!("{origin}: `{target}`: {hint}"));
            }
            let stages = r.optional(&s::STAGES_OR_ONE, parse::count(1..=1024));
            TargetConfig::Embedded(SourceConfig { folder: target.into(), stages, goal: check::goal(r) })
        }
    }
}

fn shape(r: &mut Reader) -> Shape {
    let rate = r.optional(&s::RATE, rate);
    let concurrency = r.optional(&s::CONCURRENCY, parse::count(1..=1 << 20));
    let replay = r.optional(&s::REPLAY, parse::file);
    let arrivals = r.value(&s::ARRIVALS, arrivals).unwrap_or(Arrivals::Poisson);
    match (rate, concurrency, replay) {
        (Some(rate), None, None) => Shape::Open { rate, arrivals },
        (None, None, Some(file)) => Shape::Replay { file: file.display().to_string() },
        (None, Some(concurrency), None) => Shape::Closed { concurrency },
        (None, None, None) => Shape::Closed { concurrency: 1 },
        _ => {
            let one = "give one of --rate (open loop), --concurrency (closed loop) and --replay (times of a file)";
            r.problems.0.push(one.into());
            Shape::Closed { concurrency: 1 }
        }
    }
}

/// So many requests, or so long: 100 requests if nobody says, and all of a replayed file.
fn amount(r: &mut Reader, replayed: bool) -> Option<Amount> {
    let requests = r.optional(&s::REQUESTS, parse::count(1..=1_000_000_000)).map(Amount::Requests);
    let time = r.optional(&s::DURATION, parse::duration).map(Amount::Time);
    if requests.is_some() && time.is_some() {
        r.problems.0.push("give --requests or --duration, not both".into());
    }
    match time {
        Some(Amount::Time(Duration::ZERO)) => {
            r.problems.0.push(format!("{}: a time above 0 is expected", r.origin(&s::DURATION)));
            None
        }
        _ => requests.or(time).or((!replayed).then_some(Amount::Requests(100))),
    }
}

fn sweep(r: &mut Reader, shape: &Shape) -> Option<Sweep> {
    let sweep = r.optional(&s::SWEEP, |text| {
        if text == "auto" {
            return Ok(None);
        }
        let levels: Result<Vec<f64>, String> = text.split(',').map(|level| rate(level.trim())).collect();
        levels.map(Some).map_err(|_| "auto, or rates or concurrencies are expected, as in 1,2,4,8".into())
    })?;
    match shape {
        Shape::Replay { .. } => {
            r.problems.0.push("--sweep: the times of a file cannot be swept: leave --replay out".into());
            None
        }
        Shape::Open { rate, .. } => Some(sweep.map_or(Sweep::Auto(*rate), Sweep::Levels)),
        Shape::Closed { concurrency } => {
            if sweep.as_ref().is_some_and(|levels| levels.iter().any(|level| level.fract() != 0.0)) {
                r.problems.0.push("--sweep: concurrencies are whole numbers; for rates, also give --rate 1".into());
            }
            Some(sweep.map_or(Sweep::Auto(f64::from(*concurrency)), Sweep::Levels))
        }
    }
}

fn rate(text: &str) -> parse::Parsed<f64> {
    let number = text.parse::<f64>().ok().filter(|rate| (1e-3..=1e6).contains(rate));
    number.ok_or_else(|| "a number from 0.001 to 1000000 is expected".into())
}

fn arrivals(text: &str) -> parse::Parsed<Option<Arrivals>> {
    let burst = text.strip_prefix("bursts:").and_then(|size| size.parse().ok()).filter(|size| *size > 0);
    match (text, burst) {
        ("constant", _) => Ok(Some(Arrivals::Constant)),
        ("poisson", _) => Ok(Some(Arrivals::Poisson)),
        (_, Some(size)) => Ok(Some(Arrivals::Bursts(size))),
        _ => Err("constant, poisson or bursts:N is expected, as in bursts:16".into()),
    }
}

fn warm_up(text: &str) -> parse::Parsed<Option<Amount>> {
    let amount = match text.parse() {
        Ok(count) => Amount::Requests(count),
        Err(_) => Amount::Time(parse::duration(text).map_err(|_| "requests or a time are expected, as in 50 or 5s")?),
    };
    Ok(Some(amount))
}

fn urls(text: &str) -> parse::Parsed<Vec<String>> {
    let one = |url: &str| {
        let place = url.strip_prefix("http://")?.trim_end_matches('/');
        let page = if place.contains('/') { url.to_owned() } else { format!("http://{place}/metrics") };
        (!place.is_empty()).then_some(page)
    };
    let all: Option<Vec<String>> = text.split(',').map(|url| one(url.trim())).collect();
    all.ok_or_else(|| "URLs of metrics pages are expected, as in http://host:8080/metrics".into())
}

fn token_ids(text: &str) -> parse::Parsed<(u32, u32)> {
    let range = text.split_once("..").and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    range.ok_or_else(|| "a range of token ids is expected, as in 100..1000".into())
}

fn lengths(r: &mut Reader, setting: &crate::config::Setting) -> Lengths {
    r.optional(setting, length).unwrap_or(Lengths::Fixed(1))
}

fn length(text: &str) -> parse::Parsed<Lengths> {
    let allowed = "a number, LOW..HIGH, normal:MEAN,DEVIATION, lognormal:MEAN,DEVIATION or file:PATH is expected";
    let whole = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=Lengths::MOST).contains(n));
    let pair = |text: &str| {
        let (mean, deviation) = text.split_once(',')?;
        let (mean, deviation): (f64, f64) = (mean.trim().parse().ok()?, deviation.trim().parse().ok()?);
        ((1.0..=1e6).contains(&mean) && (0.0..=1e6).contains(&deviation)).then_some((mean, deviation))
    };
    if let Some(path) = text.strip_prefix("file:") {
        let file = std::fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        let list: Option<Vec<u32>> = file.split_whitespace().map(whole).collect();
        let list = list.filter(|list| !list.is_empty());
        return list
            .map(Lengths::Listed)
            .ok_or_else(|| format!("{path}: whole numbers from 1 are expected, one a line"));
    }
    let found = if let Some(rest) = text.strip_prefix("normal:") {
        pair(rest).map(|(mean, deviation)| Lengths::Normal(mean, deviation))
    } else if let Some(rest) = text.strip_prefix("lognormal:") {
        pair(rest).map(|(mean, deviation)| Lengths::Lognormal(mean, deviation))
    } else if let Some((low, high)) = text.split_once("..") {
        whole(low).zip(whole(high)).filter(|(low, high)| low <= high).map(|(low, high)| Lengths::Uniform(low, high))
    } else {
        whole(text).map(Lengths::Fixed)
    };
    found.ok_or_else(|| allowed.into())
}
