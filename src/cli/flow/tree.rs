//! A run as a tree of what its nodes have come to, and how long each took.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use stageline_core::durable::Wall;
use stageline_flow::run::Key;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;

/// Items of one node that are shown one by one.
const ITEMS: usize = 12;

/// See the module.
#[derive(Default)]
pub(super) struct Tree {
    flow: String,
    began: Option<Wall>,
    ended: Option<(Wall, String)>,
    paused: bool,
    /// In the order in which they were begun.
    nodes: Vec<Line>,
    places: BTreeMap<Key, usize>,
}

struct Line {
    key: Key,
    began: Wall,
    ended: Option<Wall>,
    attempts: u32,
    items: Option<u32>,
    word: &'static str,
    why: Option<String>,
}

impl Tree {
    /// Of a run as an engine tells it.
    pub(super) fn of(run: &Value) -> Self {
        let mut tree = Self::default();
        for event in run["events"].as_array().into_iter().flatten() {
            tree.take(event);
        }
        tree
    }

    /// Takes in what happened.
    pub(super) fn take(&mut self, event: &Value) {
        let at = Wall(event["at_unix_ms"].as_u64().unwrap_or_default());
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let key = Key::read(&text("node"));
        match &*text("event") {
            "accepted" => *self = Self { flow: text("flow"), began: Some(at), ..Self::default() },
            "skipped" => self.line(&key, at, |line| (line.word, line.ended) = ("skipped", Some(at))),
            "fanned" => self.line(&key, at, |line| line.items = event["items"].as_u64().map(|items| items as u32)),
            "opened" => self.line(&key, at, |line| line.word = "running"),
            "waits" => self.line(&key, at, |line| line.word = "waiting"),
            "done" => self.line(&key, at, |line| (line.word, line.ended) = ("done", Some(at))),
            "called" => self.line(&key, at, |line| {
                let attempt = event["attempt"].as_u64().unwrap_or(1) as u32;
                (line.attempts, line.word, line.why) = (attempt, "running", None);
            }),
            "failed" => self.line(&key, at, |line| {
                line.why = Some(text("reason"));
                match event["again_unix_ms"].is_null() {
                    false => line.word = "again soon",
                    true => (line.word, line.ended) = ("failed", Some(at)),
                }
            }),
            "ordered" if event["order"] == "pause" => self.paused = true,
            "ordered" if event["order"] == "resume" => self.paused = false,
            "ordered" if event["order"]["retry"].is_object() => (self.ended, self.began) = (None, Some(at)),
            "ended" => {
                let why = event["error"]["reason"].as_str().map_or(String::new(), |why| format!(": {why}"));
                self.ended = Some((at, format!("{}{why}", text("status"))));
            }
            _ => {}
        }
    }

    fn line(&mut self, key: &Key, at: Wall, change: impl FnOnce(&mut Line)) {
        let place = *self.places.entry(key.clone()).or_insert_with(|| {
            let key = key.clone();
            self.nodes.push(Line { key, began: at, ended: None, attempts: 0, items: None, word: "", why: None });
            self.nodes.len() - 1
        });
        change(&mut self.nodes[place]);
    }

    fn since(&self, at: Wall) -> Duration {
        Duration::from_millis(at.0.saturating_sub(self.began.unwrap_or(at).0))
    }

    fn told(&self, line: &Line) -> String {
        let took =
            line.ended.map_or(String::new(), |end| format!(" {:.3} s", seconds(end.0.saturating_sub(line.began.0))));
        let attempts = if line.attempts > 1 { format!(", {} calls", line.attempts) } else { String::new() };
        let why = line.why.as_ref().map_or(String::new(), |why| format!(": {}", one_line(why)));
        if self.ended.is_some() && line.ended.is_none() && line.items.is_none() {
            return format!("stopped{attempts}{why}");
        }
        match line.items {
            Some(items) => format!("for {items} items"),
            None => format!("{}{took}{attempts}{why}", line.word),
        }
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

/// How deep a key stands, and its last part.
fn shown(key: &Key) -> (usize, &str) {
    let text = key.as_str();
    // What takes back, and what is at the end, is shown as such.
    if let Some(rest) = text.strip_prefix('~') {
        return (0, rest);
    }
    (text.matches('.').count(), text.rsplit('.').next().unwrap_or(text))
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.paused { "paused" } else { "running" };
        let end = self.ended.as_ref().map_or(word, |(_, words)| words);
        let took =
            self.ended.as_ref().map_or(String::new(), |(at, _)| format!(" in {:.3} s", self.since(*at).as_secs_f64()));
        writeln!(f, "{} {}{took}", self.flow, one_line(end))?;
        let mut lines: Vec<&Line> = self.nodes.iter().collect();
        // What is inside of a node stands below it, items in their order.
        let order = |line: &Line| -> Vec<(usize, u64)> {
            let mut path = String::new();
            let part = |part: &str| {
                path = if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
                let begun = self.places.get(&Key::read(&path)).copied().unwrap_or(usize::MAX);
                part.parse().map_or((begun, 0), |item: u64| (0, item))
            };
            line.key.as_str().split('.').map(part).collect()
        };
        lines.sort_by_cached_key(|line| order(line));
        let mut hidden = 0_usize;
        for line in lines {
            let (depth, name) = shown(&line.key);
            let item = line.key.as_str().split('.').filter_map(|part| part.parse::<usize>().ok()).max();
            if item.is_some_and(|item| item >= ITEMS) && line.word != "failed" {
                hidden += 1;
                continue;
            }
            let at = format!("{:8.3}", self.since(line.began).as_secs_f64());
            writeln!(f, "{at}  {:indent$}{name}  {}", "", self.told(line), indent = 2 * depth)?;
        }
        if hidden > 0 {
            writeln!(f, "          … and {hidden} more of items")?;
        }
        Ok(())
    }
}

/// A tree while it grows: a line each at a terminal, else what happens, line by line.
pub(super) struct Screen {
    lines: Option<(MultiProgress, RefCell<BTreeMap<Key, ProgressBar>>)>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let lines = std::io::stderr().is_terminal().then(|| (MultiProgress::new(), RefCell::default()));
        Self { lines }
    }

    /// Shows what has changed by what happened.
    pub(super) fn show(&self, tree: &Tree, event: &Value) {
        let Some(key) = event["node"].as_str().map(Key::read) else { return };
        let Some(line) = tree.places.get(&key).and_then(|place| tree.nodes.get(*place)) else { return };
        let Some((screen, bars)) = &self.lines else {
            let at = line.ended.unwrap_or(line.began);
            eprintln!("{:8.3}  {key}  {}", tree.since(at).as_secs_f64(), tree.told(line));
            return;
        };
        let mut bars = bars.borrow_mut();
        if bars.len() >= 64 && !bars.contains_key(&key) {
            return;
        }
        let bar = bars.entry(key).or_insert_with_key(|key| {
            let bar = screen.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}") {
                bar.set_style(style);
            }
            let (depth, name) = shown(key);
            bar.set_prefix(format!("{:indent$}{name}", "", indent = 2 * depth));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(tree.told(line));
        if line.ended.is_some() {
            bar.finish();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some((screen, bars)) = &self.lines {
            bars.borrow().values().for_each(ProgressBar::finish_and_clear);
            let _ = screen.clear();
        }
    }
}
