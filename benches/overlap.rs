//! Whether stages overlap: two stage processes of one compute thread each, over NATS or another hop, with one and with two
//! microbatches in flight, at 8 and at 32 rows a microbatch.
//!
//! `cargo bench --bench overlap`, with STAGELINE_HOP=grpc or shm for these hops; needs SmolLM2 and a nats-server (scripts/fetch_models.py, scripts/fetch-nats). With one
//! microbatch in flight a stage works alone, for t_a and t_b a batch; with two, both work at once, for t_a' and t_b'. The
//! most that overlap can give is (t_a + t_b) / max(t_a', t_b'); what it gives is the tokens/s of two over those of one.
//! Batches have the same number of rows in both, so no gain of batching counts.

#[allow(dead_code, reason = "the tests also kill servers and start them again")]
#[path = "../tests/support/nats.rs"]
mod nats;
#[allow(dead_code, reason = "this bench serves the model in processes of its own")]
#[path = "support/mod.rs"]
mod support;

use futures::StreamExt;
use nats::NatsServer;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::quantile;
use tokio::sync::mpsc::Sender;

const ROUNDS: usize = 7;
const TOKENS: usize = 96;
/// Longest wait for a pipeline to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // The stages' processes take it from the environment, as any setting.
    println!("hop: {}", std::env::var("STAGELINE_HOP").unwrap_or_else(|_| "nats".into()));
    let folder = tempfile::tempdir().expect("a folder");
    let pipeline = folder.path().join("pipeline");
    // What is measured is decoding alone: what rows of prompts cost is not to move the cut.
    support::split(env!("CARGO_BIN_EXE_stageline"), 2, &format!("1:{TOKENS}"), &pipeline);
    for rows in [8, 32] {
        let server = NatsServer::start().await;
        let other = NatsServer::start().await;
        // Both are up all the time and take turns: a machine that is slow for a while is slow for both.
        let one = Pipeline::start(&pipeline, &server.url(), 1).await;
        let two = Pipeline::start(&pipeline, &other.url(), 2).await;
        let mut figures: [Vec<f64>; 7] = Default::default();
        for round in 0..=ROUNDS {
            let (alone, both) = (one.round(2 * rows).await, two.round(2 * rows).await);
            // The first round warms everything up.
            if round == 0 {
                continue;
            }
            let gain = both.rate / alone.rate;
            let ceiling = (alone.step[0] + alone.step[1]) / both.step[0].max(both.step[1]);
            let all = [alone.step[0], alone.step[1], both.step[0], both.step[1], gain, ceiling, gain / ceiling];
            figures.iter_mut().zip(all).for_each(|(figures, figure)| figures.push(figure));
            println!(
                "  {rows} rows: {:.1} and {:.1} tokens/s; batches of {:.1} {:.1} and {:.1} {:.1} rows",
                alone.rate, both.rate, alone.rows[0], alone.rows[1], both.rows[0], both.rows[1]
            );
        }
        let [a, b, a2, b2, gain, ceiling, share] = figures.map(|mut values| quantile(&mut values, 0.5));
        println!(
            "{rows} rows a microbatch: t_a {:.1} ms, t_b {:.1} ms ({:+.1} %), both at once {:.1} and {:.1} ms; gain {gain:.2} \
             of a ceiling of {ceiling:.2}: {share:.3} (medians of {ROUNDS} rounds)",
            a * 1e3,
            b * 1e3,
            (b / a - 1.0) * 100.0,
            a2 * 1e3,
            b2 * 1e3,
        );
    }
}

/// Two stage processes.
struct Pipeline {
    stages: Vec<Child>,
    /// Where each answers.
    http: Vec<String>,
    client: reqwest::Client,
}

/// How far an answer is.
#[derive(PartialEq)]
enum Progress {
    Begun,
    Ends,
}

/// What a round of requests came to.
struct Round {
    /// Tokens a second, while all requests were live.
    rate: f64,
    /// Seconds a batch, of each stage.
    step: [f64; 2],
    /// Rows a batch.
    rows: [f64; 2],
}

impl Pipeline {
    async fn start(folder: &std::path::Path, nats: &str, away: u32) -> Self {
        let (mut stages, mut http) = (Vec::new(), Vec::new());
        for stage in ["0", "1"] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_stageline-bench"))
                .env("BENCH_AWAY", away.to_string())
                .args(["serve", "--stage", stage, "--nats", nats, "--http", "127.0.0.1:0", "--threads", "1"])
                .args(["--microbatches", "2", "--log-format", "json"])
                .args(["--max-num-seqs", "64", "--max-model-len", "256", "--queue-timeout", "60s", "--pipeline"])
                .arg(folder)
                .stderr(Stdio::piped())
                .spawn()
                .expect("the program starts");
            let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
            let address = lines.by_ref().map_while(Result::ok).find_map(|line| address_in(&line));
            http.push(format!("http://{}", address.expect("the stage gets ready")));
            std::thread::spawn(move || lines.for_each(drop));
            stages.push(child);
        }
        let pipeline = Self { stages, http, client: reqwest::Client::new() };
        let begun = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !pipeline.answers().await {
            assert!(begun.elapsed() < PATIENCE, "the pipeline does not get ready");
            look.tick().await;
        }
        pipeline
    }

    async fn answers(&self) -> bool {
        let body = serde_json::json!({ "prompt": "a", "max_tokens": 1 });
        let reply = self.client.post(&self.http[0]).json(&body).send().await;
        reply.is_ok_and(|reply| reply.status().is_success())
    }

    /// Sends `requests` at once and looks at the stages while all of them decode: from the last one's first token to the
    /// first one's last.
    async fn round(&self, requests: usize) -> Round {
        let (progress, mut heard) = tokio::sync::mpsc::channel(2 * requests);
        let asked = futures::future::join_all((0..requests).map(|number| self.ask(number, progress.clone())));
        let window = async {
            let mut begun = 0;
            while begun < requests {
                begun += usize::from(heard.recv().await.expect("progress") == Progress::Begun);
            }
            let (from, before) = (Instant::now(), self.pages().await);
            while heard.recv().await.expect("progress") != Progress::Ends {}
            (from..Instant::now(), before, self.pages().await)
        };
        let (all, (window, before, after)) = tokio::join!(asked, window);
        let tokens = all.iter().flatten().filter(|moment| window.contains(*moment)).count();
        let grown = |name: &str| [0, 1].map(|k| read(&after[k], name, k) - read(&before[k], name, k));
        let batches = grown("stageline_batch_rows_count{");
        let over = |all: [f64; 2]| [all[0] / batches[0], all[1] / batches[1]];
        Round {
            rate: tokens as f64 / (window.end - window.start).as_secs_f64(),
            step: over(grown("stageline_device_busy_seconds_total{")),
            rows: over(grown("stageline_batch_rows_sum{")),
        }
    }

    async fn pages(&self) -> Vec<String> {
        let mut pages = Vec::new();
        for http in &self.http {
            let page = self.client.get(format!("{http}/metrics")).send().await.expect("a page");
            pages.push(page.text().await.expect("a page"));
        }
        pages
    }

    /// Streams an answer and gives the moments at which its tokens came.
    async fn ask(&self, number: usize, progress: Sender<Progress>) -> Vec<Instant> {
        let body = serde_json::json!({
            "prompt": format!("Chapter {number}. Once upon a time there was a king who"),
            "max_tokens": TOKENS,
            "stream": true,
        });
        let request = self.client.post(&self.http[0]).header("accept", "text/event-stream").json(&body);
        let reply = request.send().await.expect("an answer");
        let status = reply.status();
        if !status.is_success() {
            panic!("{status}: {}", reply.text().await.unwrap_or_default());
        }
        let mut pieces = reply.bytes_stream();
        let mut moments = Vec::new();
        while let Some(piece) = pieces.next().await {
            let events = piece.expect("a piece").windows(7).filter(|bytes| bytes == b"\ndata: ").count();
            let before = moments.len();
            moments.extend((0..events).map(|_| Instant::now()));
            for (at, news) in [(1, Progress::Begun), (TOKENS, Progress::Ends)] {
                if (before + 1..=moments.len()).contains(&at) {
                    // Nobody listens any more once the first one has ended.
                    let _ = progress.try_send(news);
                }
            }
        }
        assert!(moments.len() >= TOKENS, "{} tokens only: the answer ended before", moments.len());
        moments.truncate(TOKENS);
        moments
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        for stage in &mut self.stages {
            // It ends with the bench, one way or another.
            let _ = stage.kill();
            let _ = stage.wait();
        }
    }
}

/// The address in the log line that says that a stage is ready.
fn address_in(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "ready").then(|| line["address"].as_str().map(str::to_owned)).flatten()
}

/// The figure called `name` of `stage`: every process' page has lines for all stages.
fn read(page: &str, name: &str, stage: usize) -> f64 {
    let label = format!("stage=\"{stage}\"");
    let is_it = |line: &&str| line.starts_with(name) && line.contains(&label);
    let line = page.lines().find(is_it).unwrap_or_else(|| panic!("no {name} in the page"));
    line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect("a number")
}
