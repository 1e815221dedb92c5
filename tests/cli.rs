//! The program from outside: exit status, messages, help, and the settings that README.md shows.

#[path = "support/environment.rs"]
mod environment;

use std::path::Path;
use std::process::{Command, Output};

/// The program with these arguments, in `folder`, with no other environment than `env` and what it cannot start without.
fn stageline(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stageline"));
    command.env_clear().envs(environment::kept()).envs(env.iter().copied()).current_dir(folder).args(arguments);
    command.output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_command_lines_and_settings_end_with_64_and_nothing_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, want) in [
        (&["fly"][..], "unrecognized subcommand"),
        (&["serve", "--thread", "1"], "--threads"),
        (&["serve", "--stage"], "a value is required"),
        (&["serve", "--stage", "0", "--stage", "1"], "cannot be used multiple times"),
        (&["serve", "--stage", "-1", "--pipeline", "."], "--stage: `-1`: a whole number from 0 to 1023 is expected"),
        (
            &["serve", "--healthcheck-interval", "10s", "--drain-timeout", "1s"],
            "--healthcheck-interval: no longer than drain_timeout is expected",
        ),
        (&["inspect", "nowhere"], "DIR: `nowhere`: there is no such folder"),
        (&["inspect", ".", "--json=maybe"], "--json: `maybe`: true or false is expected"),
        (&["inspect", ".", "--config", "no.toml"], "no.toml: "),
        (&["requests", "list", "--target", "nats://a"], "--target: `nats://a`: a URL is expected"),
        (&["requests", "list", "--nats", "a", "--store", "b"], "--nats, --store: one of them is expected"),
        (&["requests", "list", "--nats", "a"], "--name is missing"),
        (&["requests", "show", "7"], "a request's id, 32 hexadecimal digits"),
        (&[], "Usage: stageline <COMMAND>"),
    ] {
        let output = stageline(folder.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(want), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_problem_is_said_at_once_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stageline.toml"), "blok_size = 16\nthreads = 0\n").unwrap();
    let output = stageline(folder.path(), &["serve", "--http", "here"], &[("STAGELINE_STAGE", "first")]);
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for want in [
        "error: 5 things are wrong with the settings:",
        "stageline.toml: blok_size: there is no such setting; did you mean block_size?",
        "stageline.toml: threads: `0`: ",
        "STAGELINE_STAGE: `first`: ",
        "--http: `here`: ",
        "--pipeline is missing: ",
    ] {
        assert!(text.contains(want), "{want} is not in: {text}");
    }
}

#[test]
fn a_file_that_is_named_wins_over_the_one_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stageline.toml"), "pipeline = 'one'\n").unwrap();
    std::fs::write(folder.path().join("other.toml"), "pipeline = 'two'\n").unwrap();
    for (arguments, env, want) in [
        (&["inspect"][..], &[][..], "stageline.toml: pipeline: `one`"),
        (&["inspect"], &[("STAGELINE_CONFIG", "other.toml")], "other.toml: pipeline: `two`"),
        (&["inspect", "--config", "stageline.toml"], &[("STAGELINE_CONFIG", "no.toml")], "pipeline: `one`"),
    ] {
        let output = stageline(folder.path(), arguments, env);
        assert!(stderr(&output).contains(want), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn help_of_every_command_shows_its_flags_and_examples_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let output = stageline(folder.path(), &["--help"], &[]);
    assert!(output.status.success());
    let overview = String::from_utf8(output.stdout).unwrap();
    for verb in ["split", "serve", "up", "run", "load", "requests", "inspect", "demo"] {
        assert!(overview.contains(&format!("\n  {verb} ")), "{verb}");
        let output = stageline(folder.path(), &[verb, "--help"], &[]);
        assert!(output.status.success(), "{verb}");
        let help = String::from_utf8(output.stdout).unwrap();
        for want in ["Examples:", "--log-level", "--config", "STAGELINE_"] {
            assert!(help.contains(want), "{want} is not in the help of {verb}");
        }
        assert!(!help.contains("fake"), "{verb} shows what is for measuring");
    }
    assert!(overview.contains("[alias: embed]"), "{overview}");
    assert!(stageline(folder.path(), &["embed", "--help"], &[]).status.success());
}

#[test]
fn requests_are_asked_of_nobody_but_who_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // What is there for a server is no reason to open its file, or to ask its broker.
    let env = [("STAGELINE_STORE", "a.db"), ("STAGELINE_NATS", "127.0.0.1:1")];
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (arguments, want) in [
        (["--target", &format!("http://{closed}")], "is a door there (--target URL)?"),
        (["--store", "requests.db"], "requests.db: there is no such file"),
    ] {
        let output = stageline(folder.path(), &[&["requests", "list"][..], &arguments].concat(), &env);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(want), "{arguments:?}: {}", stderr(&output));
    }
    let env = [env[0], env[1], ("STAGELINE_TARGET", &format!("http://{closed}"))];
    let output = stageline(folder.path(), &["requests", "list"], &env);
    assert!(stderr(&output).contains(&closed.to_string()), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was made");
}

#[test]
fn the_settings_that_the_readme_shows_are_right() {
    let readme = std::fs::read_to_string(Path::new(env!("STAGELINE_ROOT")).join("README.md")).unwrap();
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a toml block");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("pipelines/smollm2")).unwrap();
    // One wrong setting more: that it is the only problem shows that the example was read and has none.
    std::fs::write(folder.path().join("stageline.toml"), format!("seed = 'x'\n{example}")).unwrap();
    let output = stageline(folder.path(), &["run", "--prompt", "a"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).starts_with("error: stageline.toml: seed: `x`: "), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    let output = stageline(folder.path(), &["serve", "--stage", "x"], &[]);
    assert!(stderr(&output).starts_with("error: --stage: `x`: "), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}
