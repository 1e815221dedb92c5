//! A gateway whose functions do what a test says, and that notes who called when.

use crate::patience::soon;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function, or the path of what is none.
    pub name: String,
    pub method: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
    /// How many calls of that name there were before.
    pub before: usize,
}

impl Call {
    /// The value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What a function answers.
#[derive(Clone, Debug)]
pub struct Said {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// It does not say before how long it is.
    is_in_pieces: bool,
}

impl Said {
    /// 200, with a body of that kind.
    pub fn body(kind: &str, body: impl Into<Bytes>) -> Self {
        // What has no kind says none.
        let headers = if kind.is_empty() { Vec::new() } else { vec![("content-type", kind.to_owned())] };
        Self { status: 200, headers, body: body.into(), is_in_pieces: false }
    }

    pub fn text(body: impl Into<String>) -> Self {
        Self::body("text/plain", body.into())
    }

    pub fn json(body: &Value) -> Self {
        Self::body("application/json", body.to_string())
    }

    /// A status, with words.
    pub fn status(status: u16, words: &str) -> Self {
        Self { status, ..Self::text(words) }
    }

    /// The same, with another body.
    pub fn with(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub fn in_pieces(self) -> Self {
        Self { is_in_pieces: true, ..self }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

type Function = Arc<dyn Fn(Call) -> BoxFuture<'static, Said> + Send + Sync>;

#[derive(Default)]
struct Seen {
    functions: HashMap<String, Function>,
    calls: Vec<Call>,
    /// `+NAME` where a call came, `-NAME` where it was answered, `!NAME` where its caller hung up.
    log: Vec<String>,
    /// How many are under way, and how many ever were at once, by name.
    out: HashMap<String, (usize, usize)>,
}

/// See the module.
pub struct Gateway {
    address: SocketAddr,
    seen: Arc<watch::Sender<Seen>>,
}

/// A call that is under way.
struct UnderWay {
    seen: Arc<watch::Sender<Seen>>,
    name: String,
    is_answered: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.seen.send_modify(|seen| {
            let mark = if self.is_answered { '-' } else { '!' };
            seen.log.push(format!("{mark}{}", self.name));
            seen.out.entry(self.name.clone()).or_default().0 -= 1;
        });
    }
}

async fn called(State(seen): State<Arc<watch::Sender<Seen>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = head.uri.path();
    let name = path.strip_prefix("/function/").unwrap_or(path).to_owned();
    let mut call = Call {
        name: name.clone(),
        method: head.method.to_string(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
        at: Instant::now(),
        before: 0,
    };
    let mut function = None;
    seen.send_modify(|seen| {
        call.before = seen.calls.iter().filter(|other| other.name == name).count();
        seen.calls.push(call.clone());
        seen.log.push(format!("+{name}"));
        let (out, most) = seen.out.entry(name.clone()).or_default();
        *out += 1;
        *most = (*most).max(*out);
        function = seen.functions.get(&name).cloned();
    });
    let mut under_way = UnderWay { seen, name: name.clone(), is_answered: false };
    let said = match function {
        Some(function) => function(call).await,
        None => Said::status(404, "error finding function"),
    };
    under_way.is_answered = true;
    drop(under_way);
    let mut response = Response::builder().status(said.status);
    for (name, value) in said.headers {
        response = response.header(name, value);
    }
    let body = match said.is_in_pieces {
        true => Body::from_stream(futures::stream::iter([Ok::<_, std::convert::Infallible>(said.body)])),
        false => Body::from(said.body),
    };
    response.body(body).unwrap()
}

impl Gateway {
    /// One without functions, on a free port.
    pub async fn open() -> Self {
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(called).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the function `name`, or what is at a path, does this.
    pub fn function<F>(&self, name: &str, does: impl Fn(Call) -> F + Send + Sync + 'static) -> &Self
    where
        F: Future<Output = Said> + Send + 'static,
    {
        let function: Function = Arc::new(move |call| does(call).boxed());
        self.seen.send_modify(|seen| drop(seen.functions.insert(name.to_owned(), function)));
        self
    }

    /// From now on it answers so.
    pub fn says(&self, name: &str, said: Said) -> &Self {
        self.function(name, move |_| std::future::ready(said.clone()))
    }

    /// From now on it answers with a text that says so.
    pub fn appends(&self, name: &str, what: &'static str) -> &Self {
        self.function(name, move |call| std::future::ready(Said::text(format!("{}{what}", call.text()))))
    }

    /// From now on it takes calls and answers none of them until somebody says so: a permit for each.
    pub fn holds(&self, name: &str) -> Arc<tokio::sync::Semaphore> {
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let held = Arc::clone(&permits);
        self.function(name, move |call| {
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                Said::text(format!("{} let go", call.name))
            }
        });
        permits
    }

    /// The calls of `name`, as they came.
    pub fn calls(&self, name: &str) -> Vec<Call> {
        self.seen.borrow().calls.iter().filter(|call| call.name == name).cloned().collect()
    }

    /// The names of all calls, as they came.
    pub fn names(&self) -> Vec<String> {
        self.seen.borrow().calls.iter().map(|call| call.name.clone()).collect()
    }

    /// See [`Seen::log`].
    pub fn log(&self) -> Vec<String> {
        self.seen.borrow().log.clone()
    }

    /// Where a line is in the log; it must be there.
    pub fn place(&self, line: &str) -> usize {
        let log = self.log();
        log.iter().position(|other| other == line).unwrap_or_else(|| panic!("no {line} in {log:?}"))
    }

    /// How many calls of `name` were ever under way at once.
    pub fn most_at_once(&self, name: &str) -> usize {
        self.seen.borrow().out.get(name).map_or(0, |(_, most)| *most)
    }

    /// Waits until `name` has been called so often.
    pub async fn called(&self, name: &str, often: usize) -> Vec<Call> {
        let mut seen = self.seen.subscribe();
        let enough = |seen: &Seen| seen.calls.iter().filter(|call| call.name == name).count() >= often;
        soon(&format!("call {often} of {name}"), async { drop(seen.wait_for(enough).await.unwrap()) }).await;
        self.calls(name)
    }

    /// Waits for a line of the log.
    pub async fn logged(&self, line: &str) {
        let mut seen = self.seen.subscribe();
        let there = |seen: &Seen| seen.log.iter().any(|other| other == line);
        soon(line, async { drop(seen.wait_for(there).await.unwrap()) }).await;
    }
}
