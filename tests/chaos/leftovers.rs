//! What the processes say of themselves: whether they are ready, what they hold, how often they replayed.

use crate::clock::{Clock, due};
use crate::looking::found;
use crate::places::Site;
use crate::plan::{DOORS, PLACES};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What is 0 when nothing is left.
const NOTHING: [&str; 5] =
    ["live_sequences", "kv_blocks_used", "queued_rows", "requests_in_flight", "requests_waiting"];
/// Within which what was lost is let go: a lease, and what a busy machine adds.
const LET_GO: Duration = Duration::from_secs(45);

/// How often a door's page is read.
const READ_EVERY: Duration = Duration::from_millis(300);

async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("a client");
    let answer = client.get(format!("http://{address}{path}")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// The sum of a metric's series on a page.
fn metric(page: &str, name: &str) -> Option<f64> {
    let start = format!("stageline_{name}{{");
    let values = page.lines().filter(|line| line.starts_with(&start));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).reduce(|sum, value| sum + value)
}

/// Waits until every place serves.
pub async fn are_ready(site: &Site) {
    for (place, (name, _)) in PLACES.iter().enumerate() {
        let what = format!("{name} to be ready");
        found(&what, async || {
            let (address, _) = site.addresses[place].borrow().clone()?;
            (get(&address, "/_/ready").await?.0 == 200).then_some(())
        })
        .await;
    }
}

/// What is still held anywhere after a while, though nobody asks.
pub async fn nothing_is_left(site: &Site) -> Vec<String> {
    are_ready(site).await;
    let mut clock = Clock::start();
    let mut left = Vec::new();
    while clock.tick().await < LET_GO {
        left.clear();
        for (place, (name, _)) in PLACES.iter().enumerate() {
            let (address, _) = site.found(place).await;
            let page = get(&address, "/metrics").await.map_or_else(String::new, |(_, page)| page);
            for what in NOTHING {
                match metric(&page, what) {
                    Some(0.0) => {}
                    Some(count) => left.push(format!("{name} has {what} {count} in the end")),
                    None => left.push(format!("{name} does not say {what}")),
                }
            }
        }
        if left.is_empty() {
            break;
        }
    }
    left
}

/// How often doors have replayed until `stop`, those included that are gone: what each has said last.
pub async fn replays(site: Arc<Site>, stop: CancellationToken) -> u64 {
    let mut seen: BTreeMap<String, f64> = BTreeMap::new();
    while !stop.is_cancelled() {
        due(READ_EVERY).await;
        for door in DOORS {
            let address = site.addresses[door].borrow().clone();
            if let Some((address, life)) = address
                && let Some((_, page)) = get(&address, "/metrics").await
                && let Some(count) = metric(&page, "replays_total")
            {
                seen.insert(life.name.clone(), count);
            }
        }
    }
    seen.values().sum::<f64>() as u64
}
