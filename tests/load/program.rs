//! `stageline load` from outside: its reports, its exit status, and two reports side by side.

use crate::doors;
use crate::doors::REFUSED;
use crate::environment;
use stageline_load::{Document, compare};
use std::path::Path;
use std::process::Output;

/// The program with these arguments, in `folder`.
async fn load(folder: &Path, arguments: &[&str]) -> Output {
    load_in(&[], folder, arguments).await
}

/// As [`load`], with these in its environment, too.
async fn load_in(more: &[(&str, &str)], folder: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_stageline"));
    command
        .env_clear()
        .envs(environment::kept())
        .envs(more.iter().copied())
        .current_dir(folder)
        .arg("load")
        .args(arguments);
    command.output().await.expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(folder: &Path, name: &str) -> Document {
    compare::read(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_reported_as_text_json_and_page_and_two_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let url = doors::http().await;
    let to = ["--target", url.as_str(), "--stream", "--seed", "7", "--output-tokens", "3..5"];
    let open =
        [&to[..], &["--rate", "500", "--requests", "40", "--warm-up", "5", "--out", "a.json", "--html", "a.html"]];
    let output = load(folder.path(), &open.concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    for want in ["end to end", "first token", "between tokens", "40 of 40 requests", "stage", "seed 7"] {
        assert!(text(&output.stdout).contains(want), "{want} is not in: {}", text(&output.stdout));
    }
    let run = &report(folder.path(), "a.json").runs[0];
    assert_eq!((run.requests, run.answered, run.good, run.scenario.seed), (40, 40, 40, 7));
    assert_eq!(run.time_to_first_token.as_ref().unwrap().count, 40);
    assert_eq!(run.windows.iter().map(|window| window.requests).sum::<u64>(), 40);
    let page = std::fs::read_to_string(folder.path().join("a.html")).unwrap();
    for foreign in ["<script", "<link", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(foreign), "the page holds {foreign}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(!page.contains("NaN") && !page.contains("inf"), "a plot has a number that is none");

    let swept = [&to[..], &["--sweep", "1,2", "--requests", "10", "--out", "b.json", "--html", "b.html"]].concat();
    let output = load(folder.path(), &swept).await;
    assert!(output.status.success() && text(&output.stdout).contains("knee: "), "{}", text(&output.stdout));
    assert_eq!(report(folder.path(), "b.json").runs.len(), 2);
    assert!(std::fs::read_to_string(folder.path().join("b.html")).unwrap().contains("Latency against throughput"));

    let output = load(folder.path(), &["compare", "b.json", "b.json"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).matches("requests/s").count(), 4, "{}", text(&output.stdout));
    let output = load(folder.path(), &["compare", "a.json", "b.json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no rate or concurrency in common"), "{}", text(&output.stderr));
    let output = load(folder.path(), &["compare", "a.html", "b.json"]).await;
    assert!(text(&output.stderr).contains("a.html: it is no JSON"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_status_is_1_if_nothing_was_answered_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let url = doors::http().await;
    let ids = format!("{REFUSED}..{}", REFUSED + 1);
    let output = load(folder.path(), &["--target", &url, "--requests", "5", "--token-ids", &ids]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("refused: 5 overloaded: no room"), "{}", text(&output.stdout));
    for (arguments, want) in [
        (&["--target", "http://127.0.0.1:1"][..], "http://127.0.0.1:1 cannot be reached"),
        (&["--target", &url, "--out", "no/such/folder.json"], "cannot write no/such/folder.json"),
        (&["--target", &url, "--metrics", "http://127.0.0.1:1"], "no metrics from http://127.0.0.1:1/metrics"),
        (&["--target", &url, "--metrics", &format!("{url}/_/ready")], "/_/ready names no stage"),
    ] {
        let output = load(folder.path(), arguments).await;
        assert!(text(&output.stderr).contains(want), "{arguments:?}: {}", text(&output.stderr));
        // Before the run: nothing is reported.
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}");
    }
    let output = load(folder.path(), &["--target", &url, "--requests", "3", "--metrics", &url]).await;
    assert!(output.status.success() && !text(&output.stdout).contains("no metrics"), "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_environment_has_no_part_in_reaching_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let url = doors::http().await;
    let nobody = [("http_proxy", "http://127.0.0.1:9"), ("ALL_PROXY", "http://127.0.0.1:9")];
    let output = load_in(&nobody, folder.path(), &["--target", &url, "--requests", "3"]).await;
    assert!(output.status.success() && !text(&output.stdout).contains("no metrics"), "{}", text(&output.stdout));
    // Another host is asked of it, and the message says so.
    let output = load_in(&nobody, folder.path(), &["--target", "http://far.test", "--requests", "3"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("through the proxy http://127.0.0.1:9"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrivals_and_prompts_of_a_file_are_sent_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("times"), "0.001\n{\"at_ms\": 0, \"output_tokens\": 9}\n").unwrap();
    let url = doors::http().await;
    let replay = ["--target", &url, "--replay", "times", "--output-tokens", "1", "--out", "c.json"];
    let output = load(folder.path(), &replay).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let run = &report(folder.path(), "c.json").runs[0];
    assert_eq!((run.answered, (run.tokens_per_second * run.seconds).round()), (2, 10.0));
    std::fs::write(folder.path().join("times"), "0.001\nsoon\n").unwrap();
    let output = load(folder.path(), &replay).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("times: line 2 is no arrival"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_are_made_of_ids_that_the_model_has_or_it_says_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let output = load(folder.path(), &[arguments, &["--requests", "20"]].concat()).await;
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let whole = doors::small(7).await;
    for scheme in ["http", "grpc"] {
        let (status, said) = run(&["--target", &format!("{scheme}://{whole}")]).await;
        assert!(status == Some(0) && said.contains("20 of 20 requests"), "{scheme}: {said}");
    }
    let (status, said) = run(&["--target", &format!("http://{whole}"), "--token-ids", "0..8"]).await;
    assert!(status == Some(1) && said.contains("--token-ids is 0..8, and the model has 7 tokens"), "{said}");
    // Where nobody says how many there are.
    let (clients, admin) = doors::small_apart(7).await;
    let (clients, admin) = (format!("grpc://{clients}"), format!("http://{admin}"));
    let (status, said) = run(&["--target", &clients]).await;
    assert!(
        status == Some(1) && said.contains("the ids 100..1000: give --token-ids those that the model has"),
        "{said}"
    );
    assert!(said.contains("(admin), give --metrics that"), "{said}");
    let (status, said) = run(&["--target", &clients, "--token-ids", "0..7"]).await;
    assert!(status == Some(0) && said.contains("20 of 20 requests"), "{said}");
    let (status, said) = run(&["--target", &clients, "--metrics", &admin]).await;
    assert!(status == Some(0) && said.contains("20 of 20 requests") && !said.contains("no view inside"), "{said}");
    let (status, said) = run(&["--target", &clients, "--run"]).await;
    assert!(status == Some(1) && said.contains("give --target the stage's admin address"), "{said}");
}
