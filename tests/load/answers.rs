//! Every way to a pipeline: what is seen of an answer, and how failures are told apart.

use crate::doors::{self, BROKEN, Pipeline, REFUSED};
use crate::nats::NatsServer;
use crate::run;
use stageline_load::target::embedded::EmbeddedTarget;
use stageline_load::target::grpc::GrpcTarget;
use stageline_load::target::http::HttpTarget;
use stageline_load::target::nats::NatsTarget;
use stageline_load::target::stage::StageTarget;
use stageline_load::{Amount, Lengths, Scenario, Shape, Target};
use std::sync::Arc;

const REQUESTS: u64 = 20;

/// Requests of 3 to 5 tokens, whose prompts begin with `first`, four at once.
fn scenario(first: u32) -> Scenario {
    Scenario {
        shape: Shape::Closed { concurrency: 4 },
        amount: Some(Amount::Requests(REQUESTS)),
        prompt_tokens: Lengths::Fixed(6),
        output_tokens: Lengths::Uniform(3, 5),
        token_ids: (first, first + 1),
        ..Scenario::default()
    }
}

/// Every answer is read whole at `target`, token by token if it `streams`, and failures have these classes.
async fn check(target: Arc<dyn Target>, streams: bool, (refused, broken): (&str, &str)) {
    let good = run(&scenario(1), target.clone()).await.recorder;
    assert_eq!((good.requests, good.answered), (REQUESTS, REQUESTS), "{:?}", good.errors);
    assert_eq!(good.prompt_tokens, 6 * REQUESTS);
    assert!((3 * REQUESTS..=5 * REQUESTS).contains(&good.tokens), "{} tokens", good.tokens);
    let seen = if streams { (REQUESTS, good.tokens - REQUESTS) } else { (0, 0) };
    assert_eq!((good.ttft.count(), good.itl.count()), seen);
    for (first, class) in [(REFUSED, refused), (BROKEN, broken)] {
        let failed = run(&scenario(first), target.clone()).await.recorder;
        let classes: Vec<(&str, u64)> = failed.errors.iter().map(|(name, e)| (name.as_str(), e.count)).collect();
        assert_eq!((failed.answered, classes), (0, vec![(class, REQUESTS)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_pipeline() {
    check(Arc::new(EmbeddedTarget::new(Arc::new(Pipeline))), true, ("overloaded", "device_failed")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_function_door_whole_and_as_a_stream() {
    let url = doors::http().await;
    for stream in [false, true] {
        let target = HttpTarget::connect(&url, (stream, false)).await.unwrap();
        check(Arc::new(target), stream, ("overloaded", "device_failed")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_client_service() {
    let url = doors::grpc(0).await;
    check(Arc::new(GrpcTarget::connect(&url, false).await.unwrap()), true, ("overloaded", "internal")).await;
    let embeds = run(&scenario(1), Arc::new(GrpcTarget::connect(&url, true).await.unwrap())).await.recorder;
    assert_eq!((embeds.answered, embeds.prompt_tokens, embeds.tokens), (REQUESTS, 3 * REQUESTS, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stage_alone() {
    for stage in [0, 1] {
        let target = StageTarget::connect(&doors::grpc(stage).await).await.unwrap();
        let ran = run(&scenario(1), Arc::new(target)).await.recorder;
        assert_eq!((ran.answered, ran.prompt_tokens), (REQUESTS, 6 * REQUESTS), "stage {stage}: {:?}", ran.errors);
    }
    // Its status is wrong about the width of its rows.
    let wrong = StageTarget::connect(&doors::grpc(2).await).await.unwrap();
    assert_eq!(run(&scenario(1), Arc::new(wrong)).await.recorder.errors["invalid_request"].count, REQUESTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_behind_a_broker() {
    let broker = NatsServer::start().await;
    for stream in [false, true] {
        let target = NatsTarget::connect(&broker.url(), "p", None, (stream, false)).await.unwrap();
        let target: Arc<dyn Target> = Arc::new(target);
        if !stream {
            let nobody = run(&scenario(1), target.clone()).await.recorder;
            assert_eq!(nobody.errors["no_responders"].count, REQUESTS);
            doors::nats(&broker.url(), doors::http().await).await;
        }
        check(target, stream, ("overloaded", "device_failed")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_there_is_named_with_what_to_do() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let faults = [
        HttpTarget::connect(&format!("http://{address}"), (false, false)).await.err().unwrap(),
        GrpcTarget::connect(&format!("grpc://{address}"), false).await.err().unwrap(),
        StageTarget::connect(&format!("grpc://{address}")).await.err().unwrap(),
        NatsTarget::connect(&format!("nats://{address}"), "p", None, (false, false)).await.err().unwrap(),
    ];
    for fault in faults {
        assert!(
            fault.message.contains(&address.to_string()) && fault.message.to_lowercase().contains("start"),
            "{fault}"
        );
    }
}
