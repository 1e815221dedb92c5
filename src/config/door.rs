//! The settings of a door, checked.

use crate::config::check::MANY;
use crate::config::raw::Reader;
use crate::config::{DoorConfig, parse, settings as s};
use stageline_door::outgoing::{Allowed, Outgoing};
use stageline_server::Keeping;
use std::time::Duration;

pub(super) fn door(r: &mut Reader) -> DoorConfig {
    let timeout: Duration = r.value(&s::EXEC_TIMEOUT, parse::duration);
    let inflight: u32 = r.value(&s::MAX_INFLIGHT, parse::count(0..=MANY));
    let body = |text: &str| parse::bytes(text).and_then(|n| usize::try_from(n).map_err(|_| "less is expected".into()));
    let healthcheck_interval = r.value(&s::HEALTHCHECK_INTERVAL, parse::duration);
    let drain_timeout = r.value(&s::DRAIN_TIMEOUT, parse::duration);
    if healthcheck_interval > drain_timeout && r.is_set(&s::HEALTHCHECK_INTERVAL) && r.is_set(&s::DRAIN_TIMEOUT) {
        let origin = r.origin(&s::HEALTHCHECK_INTERVAL);
        let words = "no longer than drain_timeout is expected, which includes it";
        r.problems.0.push(format!("{origin}: {words}"));
    }
    DoorConfig {
        http: r.optional(&s::HTTP, parse::address).unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
        name: r.optional(&s::NAME, parse::name),
        admin: r.optional(&s::ADMIN, parse::address),
        max_inflight: (inflight > 0).then_some(inflight),
        unready_when_full: r.switch(&s::UNREADY_WHEN_FULL),
        max_connections: r.value(&s::MAX_CONNECTIONS, parse::count(1..=MANY)),
        max_connections_per_peer: r.value(&s::MAX_CONNECTIONS_PER_PEER, parse::count(0..=MANY)),
        exec_timeout: (!timeout.is_zero()).then_some(timeout),
        max_body_bytes: r.value(&s::MAX_BODY_BYTES, body),
        healthcheck_interval,
        drain_timeout,
        queue_timeout: r.value(&s::QUEUE_TIMEOUT, parse::duration),
        stage_timeout: r.value(&s::STAGE_TIMEOUT, parse::duration),
        api_keys: r.optional(&s::API_KEYS, parse::file),
        keeping: keeping(r),
    }
}

fn keeping(r: &mut Reader) -> Keeping {
    let allow: Vec<Vec<Allowed>> = r.all(&s::CALLBACK_ALLOW, hosts);
    let allow: Vec<Allowed> = allow.into_iter().flatten().collect();
    let outgoing = Outgoing { allow: allow.clone(), secret: None };
    let url = |text: &str| match outgoing.check("it", text) {
        Ok(url) => Ok(url.to_string()),
        Err(fault) => Err(fault.message),
    };
    Keeping {
        file: r.optional(&s::STORE, parse::path),
        sync: r.value(&s::STORE_SYNC, parse::word(&[("second", false), ("always", true)])),
        max_stored: r.value(&s::MAX_STORED, parse::count(1..=100_000_000)),
        max_bytes: r.value(&s::MAX_STORE_BYTES, parse::bytes),
        timeout: r.value(&s::DURABLE_TIMEOUT, some_time),
        keep: r.value(&s::RESULT_TTL, some_time),
        callback_url: r.optional(&s::CALLBACK_URL, url),
        allow,
        secret_file: r.optional(&s::CALLBACK_SECRET_FILE, parse::file),
        join_always: r.value(&s::JOIN_CALLS, parse::word(&[("queue-worker", false), ("always", true)])),
    }
}

/// A time in which something can happen, and that can be counted with.
fn some_time(text: &str) -> parse::Parsed<Duration> {
    // The longest is that of every duration.
    let time = parse::duration(text)?;
    if time >= Duration::from_secs(1) { Ok(time) } else { Err("1s or more is expected".into()) }
}

/// Hosts that may be called, with commas between them.
pub(super) fn hosts(text: &str) -> parse::Parsed<Vec<Allowed>> {
    text.split(',').map(|host| host_of(host.trim())).collect()
}

fn host_of(text: &str) -> parse::Parsed<Allowed> {
    let wrong =
        || "hosts are expected, each perhaps with a port, such as gateway.openfaas:8080,*.example.com".to_owned();
    let (host, port) = match text.rsplit_once(':') {
        // Brackets are around an address of IPv6.
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().map_err(|_| wrong())?)),
        _ => (text, None),
    };
    let legal = |host: &str| !host.is_empty() && !host.contains(['/', '@', '*', ' ']);
    match legal(host.strip_prefix("*.").unwrap_or(host)) {
        true => Ok(Allowed { host: host.to_ascii_lowercase(), port }),
        false => Err(wrong()),
    }
}
