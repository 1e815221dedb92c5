//! From settings as text to settings as the program uses them.

use crate::config::checked::*;
use crate::config::door::door;
use crate::config::flow::flow;
use crate::config::load::load;
use crate::config::parse;
use crate::config::problem::Problems;
use crate::config::raw::{Reader, Written};
use crate::config::requests::requests;
use crate::config::settings as s;
use crate::config::verbs;
use stageline_base::limits::{MAX_STAGES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOGITS};
use stageline_base::sampling::{REPETITION_PENALTY, TEMPERATURE, TOP_P};
use stageline_base::{AskedSampling, Element};
use stageline_engine::Numbers;
use stageline_plan::{Balance, Goal};
use stageline_transport::{HopKind, HopSettings};
use std::time::Duration;

/// Largest number of sequences, queued requests or blocks: what still fits the counters of every stage.
pub(super) const MANY: u64 = 1 << 20;
/// Longest sequence in tokens that may be asked for.
const MAX_LEN: u64 = 1 << 24;

/// Checks the settings of the subcommand `verb` (one of [`verbs::VERBS`]).
///
/// # Errors
/// Everything that is wrong, at once.
pub fn check(verb: &str, written: &Written) -> Result<Order, Problems> {
    let mut reader = Reader::new(written);
    let r = &mut reader;
    let (config, level) = match verb {
        _ if verb == verbs::SPLIT.name => (VerbConfig::Split(split(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::SERVE.name => (VerbConfig::Serve(serve(r)), s::LOG_LEVEL),
        _ if verb == verbs::UP.name => (VerbConfig::Up(up(r)), s::LOG_LEVEL),
        _ if verb == verbs::RUN.name => (VerbConfig::Run(run(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::CALL.name => (VerbConfig::Call(call(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::LOAD.name => (VerbConfig::Load(load(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::FLOW.name => (VerbConfig::Flow(Box::new(flow(r))), s::LOG_LEVEL),
        _ if verb == verbs::KEPT_REQUESTS.name => (VerbConfig::Requests(requests(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::INSPECT.name => (VerbConfig::Inspect(inspect(r)), s::LOG_LEVEL_QUIET),
        _ if verb == verbs::DEMO.name => (VerbConfig::Demo(demo(r)), s::LOG_LEVEL_QUIET),
        other => return Err(Problems(vec![format!("{other}: there is no such subcommand")])),
    };
    let formats = parse::word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let format = r.value(&s::LOG_FORMAT, formats);
    let logging = LoggingConfig { format, level: r.value(&level, parse::log_rules) };
    reader.problems.or(Order { logging, verb: config })
}

fn split(r: &mut Reader) -> SplitConfig {
    let stages = r.value(&s::STAGES, parse::count(1..=MAX_STAGES as u64));
    let stage_memory = r.optional(&s::STAGE_MEMORY, parse::bytes_list).unwrap_or_default();
    if stage_memory.len() > 1 && stages > 0 && stage_memory.len() != stages {
        r.problems.0.push(format!(
            "{}: {} values for {stages} stages: one for all or one a stage is expected",
            r.origin(&s::STAGE_MEMORY),
            stage_memory.len()
        ));
    }
    SplitConfig {
        model: r.value(&s::MODEL, parse::folder),
        out: r.value(&s::OUT, parse::path),
        stages,
        goal: goal(r),
        stage_memory,
        name: r.optional(&s::NAME, parse::name),
        max_num_seqs: r.value(&s::MAX_NUM_SEQS, parse::count(1..=MANY)),
        max_model_len: r.optional(&s::MAX_MODEL_LEN, parse::count(1..=MAX_LEN)),
        measure: measured_on(r),
        json: r.switch(&s::JSON),
    }
}

/// The device of `split --measure`, which is of no use without it.
fn measured_on(r: &mut Reader) -> Option<DeviceConfig> {
    let measure = r.switch(&s::MEASURE);
    for setting in [&s::DEVICE, &s::THREADS, &s::DTYPE] {
        if !measure && r.is_flag(setting) {
            let origin = r.origin(setting);
            r.problems.0.push(format!("{origin}: nothing runs on a device unless --measure is there"));
        }
    }
    measure.then(|| device(r))
}

fn serve(r: &mut Reader) -> ServeConfig {
    let stage = r.value(&s::STAGE, parse::count(0..=MAX_STAGES as u64 - 1));
    let nats = nats(r);
    if stage > 0 && nats.is_none() {
        let origin = r.origin(&s::STAGE);
        r.problems.0.push(format!("{origin}: stage {stage} needs --nats, which joins it to the stages before it"));
    }
    let kind = hop(r, nats.is_some());
    let hop = HopSettings {
        hop: kind,
        listen: r.optional(&s::HOP_LISTEN, parse::address),
        advertise: r.optional(&s::HOP_ADVERTISE, parse::text),
    };
    if let Some(nats) = nats.as_ref().filter(|_| hop.hop == HopKind::Grpc && is_loopback_hop(&hop)) {
        let setting = if hop.advertise.is_some() { &s::HOP_ADVERTISE } else { &s::HOP_LISTEN };
        refuse_loopback_hop(r, nats, setting);
    }
    if hop.advertise.is_some() && hop.port().is_none() {
        let origin = r.origin(&s::HOP_ADVERTISE);
        r.problems
            .0
            .push(format!("{origin}: there is no hop port to advertise: set --hop-listen, or --hop to grpc or shm"));
    }
    ServeConfig {
        pipeline: r.value(&s::PIPELINE, parse::folder),
        stage,
        nats,
        hop,
        door: door(r),
        device: device(r),
        batching: batching(r),
    }
}

/// Whether others would be told to join this stage by an address that means themselves.
fn is_loopback_hop(hop: &HopSettings) -> bool {
    match &hop.advertise {
        Some(told) => parse::is_loopback(told),
        None => hop.port().is_some_and(|listen| listen.ip().is_loopback()),
    }
}

/// With a broker of another host, stages of other hosts are likely, and none could join this one.
fn refuse_loopback_hop(r: &mut Reader, nats: &NatsConfig, setting: &crate::config::setting::Setting) {
    if nats.urls.iter().all(|url| parse::is_loopback(parse::nats_host(url))) {
        return;
    }
    let origin = r.origin(setting);
    r.problems.0.push(format!(
        "{origin}: the hop port is on the loopback, where no stage of another host reaches it, and the broker is not: with \
         --hop grpc, say --hop-listen ADDR (0.0.0.0:0 is a free port of every address; keep it inside the cluster)"
    ));
}

fn up(r: &mut Reader) -> UpConfig {
    let nats = nats(r);
    let hop = hop(r, nats.is_some());
    // The stages of `up` join each other on the loopback, which `serve` would refuse.
    if let Some(nats) = nats.as_ref().filter(|_| hop == HopKind::Grpc) {
        refuse_loopback_hop(r, nats, &s::HOP);
    }
    UpConfig { source: source(r), nats, hop, door: door(r), device: device(r), batching: batching(r) }
}

fn run(r: &mut Reader) -> RunConfig {
    RunConfig {
        source: source(r),
        prompts: prompts(r),
        chat: r.switch(&s::CHAT),
        json: r.switch(&s::JSON),
        answer: answer(r),
        device: device(r),
        batching: batching(r),
    }
}

fn call(r: &mut Reader) -> CallConfig {
    let prompts = r.all(&s::PROMPT, parse::text);
    let rows = r.optional(&s::TOKENS, token_ids).map(Rows::Tokens);
    let rows = rows.into_iter().chain(r.optional(&s::ROWS, parse::file).map(Rows::File)).collect::<Vec<_>>();
    let save = r.optional(&s::SAVE, parse::path);
    if rows.len() + usize::from(!prompts.is_empty()) > 1 {
        r.problems.0.push("--prompt, --tokens and --rows ask for different things: give one of them".into());
    }
    if save.is_some() && rows.is_empty() {
        r.problems.0.push(format!("{}: only --tokens and --rows give rows to save", r.origin(&s::SAVE)));
    }
    let ask = match rows.into_iter().next() {
        Some(rows) => Ask::Run(rows, save),
        None if prompts.is_empty() => Ask::Status,
        None => Ask::Prompts(prompts),
    };
    let host_and_port = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("a host and a port are expected, such as 127.0.0.1:8080".into()),
    };
    CallConfig {
        address: r.value(&s::ADDRESS, host_and_port),
        ask,
        answer: answer(r),
        timeout: r.value(&s::TIMEOUT, parse::duration),
        json: r.switch(&s::JSON),
    }
}

fn token_ids(text: &str) -> parse::Parsed<Vec<u32>> {
    let ids: Result<Vec<u32>, _> = text.split(',').map(|id| id.trim().parse()).collect();
    ids.map_err(|_| "token ids with commas between them are expected, such as 1,2,3".into())
}

fn inspect(r: &mut Reader) -> InspectConfig {
    InspectConfig {
        pipeline: r.value(&s::INSPECTED, parse::folder),
        json: r.switch(&s::JSON),
        verify: r.switch(&s::VERIFY),
    }
}

fn demo(r: &mut Reader) -> DemoConfig {
    DemoConfig {
        pipeline: r.value(&s::PIPELINE, parse::folder),
        nats: nats(r),
        device: device(r),
        batching: batching(r),
    }
}

fn source(r: &mut Reader) -> SourceConfig {
    SourceConfig {
        folder: r.value(&s::FOLDER, parse::folder),
        stages: r.optional(&s::STAGES_OR_ONE, parse::count(1..=MAX_STAGES as u64)),
        goal: goal(r),
    }
}

pub(super) fn goal(r: &mut Reader) -> Goal {
    Goal {
        balance: r.value(&s::BALANCE, parse::word(&[("cost", Balance::Cost), ("params", Balance::Params)])),
        mix: r.value(&s::MIX, parse::mix),
    }
}

pub(super) fn device(r: &mut Reader) -> DeviceConfig {
    DeviceConfig {
        device: r.value(&s::DEVICE, device_name),
        threads: r.optional(&s::THREADS, parse::count(1..=1024)),
        numbers: r.optional(&s::DTYPE, parse::word(&Numbers::ALL)),
        share: r.value(&s::DEVICE_SHARE, parse::real(f32::MIN_POSITIVE..=1.0)),
        timeout: Some(r.value(&s::DEVICE_TIMEOUT, parse::duration)).filter(|timeout| !timeout.is_zero()),
        script: None,
    }
}

fn device_name(text: &str) -> parse::Parsed<DeviceName> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    match (text, number) {
        ("cpu", _) => Ok(DeviceName::Cpu),
        (_, Some(_)) if cfg!(not(feature = "cuda")) => {
            Err("this program was built for the CPU only; cpu is expected, or a build with --features cuda".into())
        }
        (_, Some(number)) => Ok(DeviceName::Cuda(number)),
        _ => Err("cpu or cuda:N is expected, as in cuda:0".into()),
    }
}

pub(super) fn batching(r: &mut Reader) -> BatchingConfig {
    let delay = r.value(&s::MAX_BATCH_DELAY_US, parse::count::<u64>(0..=1_000_000));
    let config = BatchingConfig {
        max_num_seqs: r.value(&s::MAX_NUM_SEQS, parse::count(1..=MANY)),
        max_model_len: r.optional(&s::MAX_MODEL_LEN, parse::count(1..=MAX_LEN)),
        max_batch_tokens: r.optional(&s::MAX_BATCH_TOKENS, parse::count(1..=MANY)),
        max_batch_delay: Duration::from_micros(delay),
        block_size: r.value(&s::BLOCK_SIZE, parse::count(1..=1024)),
        kv_blocks: r.optional(&s::KV_BLOCKS, parse::count(1..=u64::from(u32::MAX))),
        microbatches: r.optional(&s::MICROBATCHES, parse::count(1..=1024)),
        microbatches_away: None,
        max_queue: r.value(&s::MAX_QUEUE, parse::count(1..=MANY)),
        wire_dtype: r.value(&s::WIRE_DTYPE, parse::word(&[("f32", Element::F32), ("bf16", Element::Bf16)])),
    };
    // What does not hang on the model can be said before the model is read.
    if let (Some(len), true) = (config.max_model_len, r.problems.0.is_empty())
        && let Err(problem) = config.for_model(len as usize)
    {
        r.problems.0.extend(problem.0);
    }
    config
}

impl BatchingConfig {
    /// Tokens of each sequence that the KV cache is made for, if nobody says how many blocks it has.
    const USUAL_LEN: u64 = 2048;

    /// What these settings come to for a model whose sequences are at most `max_positions` long.
    ///
    /// # Errors
    /// If `max_model_len` is more than that, or the KV cache cannot hold one sequence of that length.
    pub fn for_model(&self, max_positions: usize) -> Result<ModelLimits, Problems> {
        let positions = u32::try_from(max_positions).unwrap_or(u32::MAX);
        let len = self.max_model_len.unwrap_or(positions);
        let fault = |text: String| Err(Problems(vec![text]));
        if len > positions {
            return fault(format!("max_model_len: {len} tokens, but the model's longest sequence is {positions}"));
        }
        let block = u64::from(self.block_size);
        let usual = u64::from(self.max_num_seqs) * u64::from(len).min(Self::USUAL_LEN).div_ceil(block);
        let one = u64::from(len).div_ceil(block);
        let blocks = self.kv_blocks.map_or(usual.max(one), u64::from);
        if blocks < one {
            return fault(format!(
                "kv_blocks: {blocks} blocks of {block} tokens do not hold one sequence of {len} tokens: \
                 set kv_blocks to {one} or more, or max_model_len to {} or less",
                blocks * block
            ));
        }
        let Ok(kv_blocks) = u32::try_from(blocks) else {
            return fault(format!(
                "kv_blocks: {blocks} blocks are needed, which is more than there can be: lower max_num_seqs"
            ));
        };
        let most = u64::from(self.max_num_seqs).saturating_mul(one);
        let fitting = self.kv_blocks.map_or((one, most), |said| (said.into(), said.into()));
        let narrow = |blocks: u64| u32::try_from(blocks).unwrap_or(u32::MAX);
        let fitting_kv_blocks = (narrow(fitting.0), narrow(fitting.1));
        Ok(ModelLimits { max_model_len: len, kv_blocks, fitting_kv_blocks })
    }
}

pub(super) fn nats(r: &mut Reader) -> Option<NatsConfig> {
    let creds = r.optional(&s::NATS_CREDS, parse::file);
    let name = r.optional(&s::NATS_USER, parse::text);
    let password = r.optional(&s::NATS_PASSWORD_FILE, parse::file);
    if name.is_some() != password.is_some() {
        let given = if name.is_some() { &s::NATS_USER } else { &s::NATS_PASSWORD_FILE };
        let origin = r.origin(given);
        r.problems.0.push(format!("{origin}: --nats-user and --nats-password-file are given together"));
    }
    let user = name.zip(password);
    r.optional(&s::NATS, parse::nats_urls).map(|urls| NatsConfig { urls, creds, user })
}

fn hop(r: &mut Reader, nats: bool) -> HopKind {
    let kinds = parse::word(&[("nats", HopKind::Nats), ("grpc", HopKind::Grpc), ("shm", HopKind::Shm)]);
    let hop = r.value(&s::HOP, kinds);
    if !nats && hop != HopKind::Nats {
        let origin = r.origin(&s::HOP);
        r.problems
            .0
            .push(format!("{origin}: {hop} needs --nats: in one process, stages reach each other in its memory"));
    }
    hop
}

fn prompts(r: &mut Reader) -> PromptsConfig {
    let given = r.all(&s::PROMPT, parse::text);
    let file = r.optional(&s::PROMPT_FILE, |text| match text {
        "-" => Ok(PromptFile::StandardInput),
        path => parse::file(path).map(PromptFile::Path),
    });
    if r.is_set(&s::PROMPT) || r.is_set(&s::PROMPT_FILE) {
        return PromptsConfig { given, file };
    }
    r.problems.0.push(
        "there is no prompt: give --prompt TEXT, --prompt-file FILE or --prompt-file - for standard input".into(),
    );
    PromptsConfig { given, file }
}

fn answer(r: &mut Reader) -> AnswerConfig {
    let stop_text = |text: &str| match text.len() {
        1..=MAX_STOP_BYTES => Ok(text.to_owned()),
        _ => Err(format!("1 to {MAX_STOP_BYTES} bytes are expected")),
    };
    let stop = r.all(&s::STOP, stop_text);
    if stop.len() > MAX_STOP_STRINGS {
        r.problems.0.push(format!("{}: at most {MAX_STOP_STRINGS} texts are expected", r.origin(&s::STOP)));
    }
    AnswerConfig {
        max_tokens: r.value(&s::MAX_TOKENS, parse::count(1..=MAX_LEN)),
        sampling: AskedSampling {
            temperature: Some(r.value(&s::TEMPERATURE, parse::within(TEMPERATURE))),
            top_k: Some(r.value(&s::TOP_K, parse::count(0..=u64::from(u32::MAX)))),
            top_p: Some(r.value(&s::TOP_P, parse::within(TOP_P))),
            repetition_penalty: Some(r.value(&s::REPETITION_PENALTY, parse::within(REPETITION_PENALTY))),
            seed: r.optional(&s::SEED, parse::count(0..=u64::MAX)),
            top_logits: Some(r.value(&s::TOP_LOGITS, parse::count(0..=u64::from(MAX_TOP_LOGITS)))),
        },
        stop,
    }
}
