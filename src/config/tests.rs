//! Precedence, and every rule, over tables of settings.

use super::settings as s;
use super::*;
use stageline_base::Sampling;
use stageline_base::limits::DEFAULT_MAX_TOKENS;
use stageline_base::sampling::{REPETITION_PENALTY, TEMPERATURE, TOP_P};
use stageline_door::Limits;
use stageline_load::{Amount, Arrivals, Lengths, Scenario, Shape};
use stageline_transport::HopKind;
use std::collections::BTreeSet;

/// Settings as if typed: `--key value`, `KEY=value`, and lines of a file named `f.toml`.
fn written(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Written {
    let mut written = Written::default();
    for (key, value) in flags {
        written.flags.entry((*key).into()).or_default().push((*value).into());
    }
    written.env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    written.file = (!file.is_empty()).then(|| ("f.toml".into(), file.into()));
    written
}

fn run(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Result<RunConfig, Problems> {
    let mut written = written(flags, env, file);
    written.flags.insert("pipeline".into(), vec![".".into()]);
    written.flags.insert("prompt".into(), vec!["a text".into()]);
    match check("run", &written)?.verb {
        VerbConfig::Run(config) => Ok(config),
        other => panic!("not run: {other:?}"),
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (flag, env, file) = ([("block_size", "1")], [("STAGELINE_BLOCK_SIZE", "2")], "block_size = 3");
    for (config, want) in [
        (run(&flag, &env, file), 1),
        (run(&[], &env, file), 2),
        (run(&[], &[("STAGELINE_BLOCK_SIZE", "")], file), 3),
        (run(&[], &[], file), 3),
        (run(&[], &[], ""), 16),
    ] {
        assert_eq!(config.unwrap().batching.block_size, want);
    }
}

#[test]
fn a_variable_known_elsewhere_comes_after_our_own() {
    let threads = |env: &[_]| run(&[], env, "threads = 3").unwrap().device.threads;
    assert_eq!(threads(&[("RAYON_NUM_THREADS", "1"), ("STAGELINE_THREADS", "2")]), Some(2));
    assert_eq!(threads(&[("RAYON_NUM_THREADS", "1")]), Some(1));
    assert_eq!(threads(&[]), Some(3));
}

#[test]
fn all_problems_are_said_at_once_and_say_where_they_come_from() {
    let flags = [("threads", "0"), ("max_batch_tokens", "many")];
    let env = [("STAGELINE_BLOCK_SIZE", "0"), ("STAGELINE_MAX_NUM_SEQ", "4"), ("STAGELINE_PORT", "tcp://10.0.0.1:80")];
    let file = "max_quue = 1\nkv_blocks = [1, 2]\nbalance = \"even\"\n[table]\n";
    let problems = run(&flags, &env, file).unwrap_err().0;
    let want = [
        "f.toml: max_quue: there is no such setting; did you mean max_queue?",
        "f.toml: table: there is no such setting",
        "STAGELINE_MAX_NUM_SEQ: there is no such setting; did you mean STAGELINE_MAX_NUM_SEQS?",
        "f.toml: balance: `even`: cost or params is expected",
        "--threads: `0`: a whole number from 1 to 1024 is expected",
        "--max-batch-tokens: `many`: a whole number from 1 to 1048576 is expected",
        "STAGELINE_BLOCK_SIZE: `0`: a whole number from 1 to 1024 is expected",
        "f.toml: kv_blocks: `1, 2`: one value is expected, not a list",
    ];
    assert_eq!(problems, want);
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line() {
    let problems = run(&[], &[], "threads = 1\nname = \"a\n").unwrap_err().0;
    assert!(problems[0].starts_with("f.toml: line 2: "), "{problems:?}");
    assert_eq!(problems.len(), 1);
}

#[test]
fn what_is_missing_is_named_with_all_ways_to_give_it() {
    let problems = check("serve", &Written::default()).unwrap_err().0;
    assert_eq!(problems.len(), 2);
    assert!(problems[0].starts_with("--stage is missing: "), "{problems:?}");
    assert!(problems[1].ends_with("Give --pipeline, the variable STAGELINE_PIPELINE, or pipeline in stageline.toml"));
    let problems = check("run", &Written::default()).unwrap_err().0;
    assert!(problems[0].starts_with("PIPELINE_OR_MODEL_DIR is missing: "), "{problems:?}");
    assert!(problems[1].starts_with("there is no prompt: "), "{problems:?}");
}

#[test]
fn rules_between_settings() {
    let dir = ("pipeline", ".");
    for (verb, flags, want) in [
        ("serve", vec![dir, ("stage", "1")], "--stage: stage 1 needs --nats, which joins it to the stages before it"),
        (
            "split",
            vec![("model", "."), ("out", "o"), ("stages", "3"), ("stage_memory", "1GB,2GB")],
            "--stage-memory: 2 values for 3 stages: one for all or one a stage is expected",
        ),
        (
            "split",
            vec![("model", "."), ("out", "o"), ("stages", "3"), ("mix", "512")],
            "--mix: `512`: PROMPT:ANSWER is expected, each from 1 to 16777216 tokens, as in 512:128",
        ),
        (
            "split",
            vec![("model", "."), ("out", "o"), ("stages", "3"), ("threads", "1")],
            "--threads: nothing runs on a device unless --measure is there",
        ),
        (
            "up",
            vec![dir, ("kv_blocks", "2"), ("max_model_len", "33")],
            "kv_blocks: 2 blocks of 16 tokens do not hold one sequence of 33 tokens: set kv_blocks to 3 or more, or \
             max_model_len to 32 or less",
        ),
    ] {
        assert_eq!(check(verb, &written(&flags, &[], "")).unwrap_err().0, [want], "{verb}");
    }
}

#[test]
fn what_is_set_for_every_command_measures_nothing_by_itself() {
    let split = |flags: &[_]| {
        let all = [&[("model", "."), ("out", "o"), ("stages", "3")], flags].concat();
        match check("split", &written(&all, &[("STAGELINE_THREADS", "3")], "device = 'cpu'")).unwrap().verb {
            VerbConfig::Split(config) => config,
            other => panic!("not split: {other:?}"),
        }
    };
    assert_eq!(split(&[]).measure, None);
    assert_eq!(split(&[]).goal.mix.to_string(), "512:128");
    let config = split(&[("measure", "true"), ("mix", "64:512")]);
    assert_eq!((config.measure.unwrap().threads, config.goal.mix.to_string().as_str()), (Some(3), "64:512"));
}

#[test]
fn the_model_decides_what_is_left_open() {
    let limits = |flags: &[_], positions| run(flags, &[], "").unwrap().batching.for_model(positions);
    let of =
        |max_model_len, kv_blocks, fitting_kv_blocks| Ok(ModelLimits { max_model_len, kv_blocks, fitting_kv_blocks });
    assert_eq!(limits(&[], 8192), of(8192, 64 * 128, (512, 64 * 512)));
    assert_eq!(limits(&[], 100), of(100, 64 * 7, (7, 64 * 7)), "100 tokens are 7 blocks of 16");
    assert_eq!(limits(&[("max_num_seqs", "1")], 8192), of(8192, 512, (512, 512)), "one whole sequence always fits");
    assert_eq!(limits(&[("max_model_len", "512"), ("kv_blocks", "40")], 8192), of(512, 40, (40, 40)));
    assert!(limits(&[("max_model_len", "513")], 512).is_err());
    assert!(limits(&[("kv_blocks", "511")], 8192).is_err());
}

#[test]
fn zero_means_no_limit_where_the_help_says_so() {
    let door = |flags: &[_]| match check("up", &written(flags, &[], "pipeline = '.'")).unwrap().verb {
        VerbConfig::Up(config) => config.door,
        other => panic!("not up: {other:?}"),
    };
    let config = door(&[("exec_timeout", "0"), ("max_inflight", "0"), ("http", ":1")]);
    assert_eq!((config.exec_timeout, config.max_inflight, config.http.port()), (None, None, 1));
    let config = door(&[("exec_timeout", "1m"), ("max_inflight", "7")]);
    assert_eq!((config.exec_timeout.unwrap().as_secs(), config.max_inflight), (60, Some(7)));
}

#[test]
fn lists_come_from_repeated_flags_or_arrays() {
    let run = |written: &Written| match check("run", written).unwrap().verb {
        VerbConfig::Run(config) => (config.prompts.given, config.answer.stop),
        other => panic!("not run: {other:?}"),
    };
    let flags = [("pipeline", "."), ("prompt", "a, b"), ("prompt", "c"), ("stop", "\n")];
    let (prompts, stop) = run(&written(&flags, &[], "prompt = ['x']"));
    assert_eq!((prompts, stop), (vec!["a, b".into(), "c".into()], vec!["\n".into()]));
    let (prompts, stop) = run(&written(&[("pipeline", ".")], &[], "prompt = ['x', 'y']\nstop = 'z'"));
    assert_eq!((prompts, stop), (vec!["x".into(), "y".into()], vec!["z".into()]));
}

#[test]
fn every_default_is_right_and_every_name_is_free() {
    let mut variables = BTreeSet::new();
    for verb in VERBS {
        let mut keys = BTreeSet::new();
        for setting in verb.settings() {
            assert!(keys.insert(setting.key), "{}: {} is there twice", verb.name, setting.key);
            assert!(setting.key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", setting.key);
            assert!(!setting.help.ends_with('.'), "{}", setting.key);
            variables.insert(setting.env());
        }
    }
    assert!(variables.contains("STAGELINE_MAX_BATCH_DELAY_US"));
    let required = [
        ("pipeline", "."),
        ("model", "."),
        ("out", "o"),
        ("stages", "1"),
        ("stage", "0"),
        ("prompt", "p"),
        ("target", "http://a:1"),
        ("address", "a:1"),
        ("order", "list"),
        ("flow_order", "list"),
    ];
    for verb in VERBS {
        let order = check(verb.name, &written(&required, &[], "")).unwrap();
        let quiet = verb.settings().any(|setting| setting.default == s::LOG_LEVEL_QUIET.default);
        assert_eq!(order.logging.level, if quiet { "warn" } else { "info" }, "{}", verb.name);
    }
}

#[test]
fn a_hop_between_processes_needs_processes_and_an_advertised_port_a_port() {
    let serve = |flags: &[(&str, &str)]| {
        let common = [("pipeline", "."), ("stage", "0")];
        match check("serve", &written(&[&common, flags].concat(), &[], "")).map(|order| order.verb) {
            Ok(VerbConfig::Serve(config)) => Ok(config.hop),
            Ok(other) => panic!("not serve: {other:?}"),
            Err(problems) => Err(problems.0),
        }
    };
    let nats = ("nats", "localhost");
    let hop = serve(&[nats]).unwrap();
    assert_eq!((hop.hop, hop.port()), (HopKind::Nats, None));
    let hop = serve(&[nats, ("hop", "shm")]).unwrap();
    assert!(hop.hop == HopKind::Shm && hop.port().unwrap().ip().is_loopback());
    let hop = serve(&[nats, ("hop", "grpc"), ("hop_listen", ":7000"), ("hop_advertise", "pod-1")]).unwrap();
    assert_eq!((hop.port().unwrap().port(), hop.advertise.as_deref()), (7000, Some("pod-1")));
    for (flags, want) in [
        (&[("hop", "grpc")][..], "--hop: grpc needs --nats: in one process, stages reach each other in its memory"),
        (&[nats, ("hop", "tcp")], "--hop: `tcp`: nats or grpc or shm is expected"),
        (
            &[nats, ("hop_advertise", "pod-1")],
            "--hop-advertise: there is no hop port to advertise: set --hop-listen, or --hop to grpc or shm",
        ),
    ] {
        assert_eq!(serve(flags).unwrap_err(), [want]);
    }
    // With a broker of another host, an address that means the host itself is none to be joined at.
    let (far, grpc) = (("nats", "nats://door:pw@broker:4222,127.0.0.1"), ("hop", "grpc"));
    for (flags, setting) in [
        (&[far, grpc][..], "--hop-listen"),
        (&[far, grpc, ("hop_listen", "127.0.0.1:7000")], "--hop-listen"),
        (&[far, grpc, ("hop_listen", ":7000"), ("hop_advertise", "localhost")], "--hop-advertise"),
    ] {
        let problems = serve(flags).unwrap_err();
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("{setting}: the hop port is on")),
            "{problems:?}"
        );
        assert!(!problems[0].contains("pw"), "{problems:?}");
    }
    for fine in [
        &[far, grpc, ("hop_listen", ":7000")][..],
        &[far, grpc, ("hop_advertise", "pod-1:7000")],
        &[far, ("hop", "shm")],
        &[far, ("hop_listen", "127.0.0.1:0")],
        &[("nats", "127.0.0.1,localhost:1,[::1]"), grpc],
    ] {
        assert!(serve(fine).is_ok(), "{fine:?}");
    }
    let user = serve(&[nats, ("nats_user", "door")]).unwrap_err();
    assert_eq!(user, ["--nats-user: --nats-user and --nats-password-file are given together"]);
}

#[test]
fn nobody_is_listened_to_from_outside_unless_it_is_said() {
    let door = |flags: &[(&str, &str)]| match check("serve", &written(flags, &[], "")).unwrap().verb {
        VerbConfig::Serve(config) => config,
        other => panic!("not serve: {other:?}"),
    };
    let config = door(&[("pipeline", "."), ("stage", "0"), ("nats", "localhost"), ("hop", "grpc")]);
    assert_eq!(config.door.http.to_string(), "127.0.0.1:8080");
    assert!(config.hop.port().unwrap().ip().is_loopback());
}

#[test]
fn a_load_is_read_whole_and_what_does_not_fit_together_is_said() {
    let load = |flags: &[(&str, &str)]| check("load", &written(flags, &[], ""));
    let to = ("target", "http://a:1");
    let run = |flags: &[(&str, &str)]| match load(flags).unwrap().verb {
        VerbConfig::Load(LoadConfig::Run(run)) => run,
        other => panic!("not a load: {other:?}"),
    };
    let usual = run(&[to]).scenario;
    assert_eq!(usual, Scenario { target: "http://a:1".into(), ..Scenario::default() });
    let typed = run(&[to, ("rate", "2.5"), ("arrivals", "bursts:4"), ("duration", "3s"), ("prompt_tokens", "1..9")]);
    assert_eq!(typed.scenario.shape, Shape::Open { rate: 2.5, arrivals: Arrivals::Bursts(4) });
    assert_eq!(typed.scenario.amount, Some(Amount::Time(std::time::Duration::from_secs(3))));
    assert_eq!(typed.scenario.prompt_tokens, Lengths::Uniform(1, 9));
    for (target, kind) in [
        ("grpc://a:1", TargetConfig::Grpc("grpc://a:1".into())),
        ("nats://a:1", TargetConfig::Nats("nats://a:1".into(), "p".into(), None)),
    ] {
        assert_eq!(run(&[("target", target), ("name", "p")]).target, kind);
    }
    for (flags, want) in [
        (vec![to, ("rate", "1"), ("concurrency", "1")], "give one of --rate"),
        (vec![to, ("requests", "1"), ("duration", "1s")], "give --requests or --duration, not both"),
        (vec![to, ("objective", "ttft=1s")], "--objective: no time of single tokens is seen here: add --stream"),
        (vec![to, ("run", "true")], "--run: a stage is called by gRPC"),
        (vec![to, ("token_ids", "9..9")], "--token-ids: the first id is expected to be below the last"),
        (vec![to, ("sweep", "1.5")], "--sweep: concurrencies are whole numbers"),
        (vec![to, ("prompt_tokens", "9..1")], "--prompt-tokens: `9..1`: a number, LOW..HIGH"),
        (vec![("target", "nats://a:1")], "--target: `nats://a:1`: which pipeline? Give its --name"),
        (vec![("target", "a:1")], "--target: `a:1`: there is no such folder; for a server, write http://a:1"),
        (vec![("target", "https://a")], "--target: `https://a`: http://, grpc://, nats:// or a folder is expected"),
        (vec![to, ("reports", "compare")], "`compare`: compare A.json B.json is expected, or nothing to send a load"),
    ] {
        let problems = load(&flags).unwrap_err().0;
        assert!(problems.len() == 1 && problems[0].starts_with(want), "{want}: {problems:?}");
    }
}

#[test]
fn what_documents_say_of_defaults_is_so() {
    let of = |setting: &setting::Setting| setting.default.unwrap();
    let rows = [DeviceName::Cpu, DeviceName::Cuda(0)].map(|device| device.usual_batch_tokens());
    let stated = [
        ("README.md", format!("`queue_timeout` ({})", of(&s::QUEUE_TIMEOUT))),
        ("README.md", format!("`max_queue` requests ({})", of(&s::MAX_QUEUE))),
        ("README.md", format!("`stage_timeout` ({})", of(&s::STAGE_TIMEOUT))),
        ("README.md", format!("`healthcheck_interval` ({})", of(&s::HEALTHCHECK_INTERVAL))),
        ("README.md", format!("`drain_timeout` ({} after the signal)", of(&s::DRAIN_TIMEOUT))),
        ("README.md", format!("max_connections = {} ", of(&s::MAX_CONNECTIONS))),
        ("README.md", format!("max_batch_tokens = {} ", rows[0])),
        ("README.md", format!("({} on a CUDA device)", rows[1])),
        ("docs/http.md", format!("`exec_timeout` is {} where", of(&s::EXEC_TIMEOUT))),
    ];
    for (document, words) in stated {
        let path = std::path::Path::new(env!("STAGELINE_ROOT")).join(document);
        assert!(std::fs::read_to_string(path).unwrap().contains(&words), "{document} does not say: {words}");
    }
    assert!(s::MAX_BATCH_TOKENS.help.contains(&format!("(default: {}, and {} on a CUDA device)", rows[0], rows[1])));
}

#[test]
fn a_default_that_the_door_has_too_is_the_same_there() {
    let door = match check("up", &written(&[], &[], "pipeline = '.'")).unwrap().verb {
        VerbConfig::Up(config) => config.door,
        other => panic!("not up: {other:?}"),
    };
    let limits = Limits::default();
    assert_eq!(door.max_body_bytes, limits.max_body_bytes);
    assert_eq!((door.max_connections, door.max_inflight), (limits.max_connections, limits.max_inflight));
    assert_eq!(limits.unready_when_full, door.unready_when_full);
    assert_eq!(door.max_connections_per_peer, limits.max_connections_per_peer);
    assert_eq!((door.exec_timeout, limits.default_deadline), (Some(limits.max_deadline), limits.max_deadline));
    assert_eq!(s::MAX_TOKENS.default.unwrap(), DEFAULT_MAX_TOKENS.to_string());
    assert_eq!(run(&[], &[], "").unwrap().answer.sampling.or(0), Sampling::GREEDY);
}

#[test]
fn how_tokens_are_drawn_has_the_same_bounds_as_at_the_door() {
    for bounds in [TEMPERATURE, TOP_P, REPETITION_PENALTY] {
        let given =
            |value: f32| run(&[(bounds.name, value.to_string().as_str())], &[], "").map_err(|problems| problems.0);
        assert!(given(bounds.most).is_ok() && given(bounds.default).is_ok(), "{bounds:?}");
        assert_eq!(given(bounds.least).is_ok(), !bounds.above, "{bounds:?}");
        let said = given(bounds.most + 1.0).unwrap_err().join("\n");
        assert!(said.contains(&format!("a number {bounds} is expected")), "{said}");
    }
}
