//! Secrets: in calls, and nowhere else.

use crate::support::{Door, Events, Gateway, Said, Setup};
use reqwest::Method;
use serde_json::json;

const KEYED: &str = "
flows:
  keyed:
    nodes:
      work:
        headers: {Authorization: 'Bearer {{ secrets.TOKEN }}'}
        query: {k: '{{ secrets.TOKEN }}'}
        input: {key: '{{ secrets.TOKEN }}', said: '{{ input }}'}
      answer: {after: [work], wait: {signal: go, timeout: 1h}}
      other: {input: '{{ answer }}'}
";
const TOKEN: &str = "to\\\"ken & more";
const HIDDEN: &str = "of another flow";

/// A door whose folder of secrets has one that the flow names, and one that it does not.
async fn keyed(gateway: &Gateway, folder: &tempfile::TempDir) -> Door {
    std::fs::write(folder.path().join("TOKEN"), format!("{TOKEN}\n")).unwrap();
    std::fs::write(folder.path().join("OTHER"), HIDDEN).unwrap();
    gateway.says("work", Said::text("done")).function("other", |call| async move { Said::text(call.text()) });
    Door::open(Setup { secrets: Some(folder.path().to_owned()), ..Setup::new(KEYED, gateway) }).await
}

/// All that the door tells of a run, as text.
async fn seen(door: &Door, run: &str) -> String {
    let events = door.request(Method::GET, &format!("/runs/{run}/events"));
    let events = Events::of(events).await.some(3).await;
    format!("{}{events:?}", door.told(run).await)
}

#[tokio::test]
async fn a_secret_is_in_the_call_and_in_nothing_that_is_told_or_kept() {
    let (gateway, folder) = (Gateway::open().await, tempfile::tempdir().unwrap());
    let door = keyed(&gateway, &folder).await;
    let run = door.begin("keyed", &json!("hello")).await;
    let call = gateway.called("work", 1).await.remove(0);
    assert_eq!(call.header("authorization"), format!("Bearer {TOKEN}"));
    assert_eq!(call.json(), json!({ "key": TOKEN, "said": "hello" }));
    assert_eq!(call.query, "k=to%5C%22ken+%26+more");
    door.events(&run).await.until("waits", "answer").await;
    let text = seen(&door, &run).await;
    assert!(text.contains("secrets.TOKEN"), "{text}");
    for hidden in ["ken & more", "secret:", HIDDEN] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[tokio::test]
async fn nobody_can_write_what_stands_for_a_secret() {
    let (gateway, folder) = (Gateway::open().await, tempfile::tempdir().unwrap());
    let door = keyed(&gateway, &folder).await;
    let run = door.begin("keyed", &json!("hello")).await;
    door.events(&run).await.until("waits", "answer").await;
    // Of what can be seen, whatever looks like the number that marks are made with; else any.
    let text = seen(&door, &run).await;
    let is_number = |word: &&str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let numbers: Vec<&str> = words.filter(is_number).chain(["0000000000000000"]).collect();
    let marks: String = numbers.iter().map(|number| format!("\u{1}secret:{number}:OTHER\u{1}")).collect();
    let reply = door.post(&format!("/runs/{run}/signal?name=go"), marks.clone()).await;
    assert_eq!(reply.status, 202);
    assert_eq!(door.ended(&run).await.text(), marks);
    assert_eq!(gateway.calls("other")[0].text(), marks);
}
