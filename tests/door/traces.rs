//! The trace that a request belongs to: whichever way it comes, it goes on to the pipeline and into the log.

use crate::patience::soon;
use crate::support::{Door, Served, Setup, exchange, logged, post};
use stageline_base::Trace;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_proto::inference as pb;
use tonic::Request;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// What counts as none.
const MALFORMED: &str = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";

/// The trace of what the pipeline was given, which is then answered.
async fn trace_of(served: Served) -> Trace {
    let trace = served.request.trace.unwrap();
    served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }).await;
    trace
}

/// Waits for the line that says that the request `id` has ended, and asserts that it names `trace`.
async fn in_the_log(id: &str, trace: Trace) {
    let said = || logged().lines().find(|line| line.contains(id) && line.contains("request ended")).map(str::to_string);
    let line = soon("the log", async {
        loop {
            if let Some(line) = said() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    });
    let line = line.await;
    assert!(line.contains(&format!("traceparent={trace}")), "{line}");
}

fn begun(trace: Trace) -> bool {
    !trace.sampled() && trace.id() != Trace::parse(TRACE.as_bytes()).unwrap().id()
}

#[tokio::test]
async fn over_http() {
    let mut door = Door::open(Setup::default()).await;
    for (number, brought) in [Some(TRACE), Some(MALFORMED), None].into_iter().enumerate() {
        let id = format!("traced-http-{number}");
        let trace = brought.map(|trace| format!("traceparent: {trace}\r\n")).unwrap_or_default();
        let (address, request) = (door.address, post(&format!("x-call-id: {id}\r\n{trace}"), "x"));
        let asking = tokio::spawn(async move { exchange(address, request.as_bytes()).await });
        let trace = trace_of(door.served().await).await;
        assert_eq!((trace.to_string() == TRACE, begun(trace)), (number == 0, number > 0), "{trace}");
        assert_eq!(asking.await.unwrap().status, 200);
        in_the_log(&id, trace).await;
    }
}

#[tokio::test]
async fn over_grpc() {
    let mut door = Door::open(Setup::default()).await;
    for (number, brought) in [Some(TRACE), Some(MALFORMED), None].into_iter().enumerate() {
        let id = format!("traced-grpc-{number}");
        let input = Some(pb::generate_request::Input::Prompt("x".into()));
        let mut request = Request::new(pb::GenerateRequest { input, ..Default::default() });
        request.metadata_mut().insert("x-call-id", id.parse().unwrap());
        if let Some(trace) = brought {
            request.metadata_mut().insert("traceparent", trace.parse().unwrap());
        }
        let mut client = door.client().await;
        let asking = tokio::spawn(async move {
            let mut answer = client.generate(request).await.unwrap().into_inner();
            while answer.message().await.unwrap().is_some() {}
        });
        let trace = trace_of(door.served().await).await;
        assert_eq!((trace.to_string() == TRACE, begun(trace)), (number == 0, number > 0), "{trace}");
        asking.await.unwrap();
        in_the_log(&id, trace).await;
    }
}

#[tokio::test]
async fn of_rows_that_pass_the_door_by() {
    let door = Door::open(Setup { stage: 3, ..Setup::default() }).await;
    let data = vec![0; 4].into();
    let element = pb::tensor::Element::F32.into();
    let tensor = pb::Tensor { element, rows: 1, columns: 1, data, ..Default::default() };
    let mut request = Request::new(pb::RunRequest { inputs: vec![tensor], top_logits: 0, stage: None });
    request.metadata_mut().insert("x-call-id", "traced-run".parse().unwrap());
    request.metadata_mut().insert("traceparent", TRACE.parse().unwrap());
    door.client().await.run(request).await.unwrap();
    in_the_log("traced-run", Trace::parse(TRACE.as_bytes()).unwrap()).await;
}
