//! Random flows, what functions answer, and what a flow comes to when nothing goes wrong.

use serde_json::{Map, Value, json};
use stageline_base::prng::Prng;
use stageline_flow::definition::{
    Call, Does, Each, File, Flow, Graph, Input, Node, Place, Retry, Target, Template, Tolerate, Undo, Wait,
};
use stageline_template::{Budget, Expression, Limits, Value as Seen};
use std::collections::BTreeMap;
use std::time::Duration;

pub const FLOW: &str = "random";

fn expression(text: &str) -> Expression {
    Expression::new(text).unwrap()
}

fn call(name: &str) -> Call {
    let target = Target::Function { name: name.to_owned(), calls_back: false };
    Call { target, method: "POST".to_owned(), headers: Vec::new(), query: Vec::new() }
}

/// A flow of a few nodes. What each does and on what it hangs is drawn.
pub fn random(random: &mut Prng) -> File {
    let graph = graph(random, 1 + random.clone().below(7) as usize, 0, &[]);
    let few = |random: &mut Prng, prefix: &str| {
        let count = random.below(3) as usize;
        let nodes = (0..count).map(|place| plain(&format!("{prefix}{place}"), Does::Call(call(prefix)))).collect();
        Graph { nodes }
    };
    let flow = Flow {
        name: FLOW.to_owned(),
        graph,
        output: None,
        timeout: Duration::from_secs(3600),
        retain: Duration::from_secs(3600),
        callback_url: None,
        max_live: None,
        priority: 0,
        on_failure: few(random, "alert"),
        finally: few(random, "tidy"),
    };
    File { flows: [(FLOW.to_owned(), flow)].into(), ..File::default() }
}

fn plain(id: &str, does: Does) -> Node {
    Node {
        id: id.to_owned(),
        place: Place::default(),
        does,
        input: Input::Usual,
        parents: Vec::new(),
        sources: Vec::new(),
        when: None,
        each: None,
        timeout: Duration::from_secs(60),
        retry: Retry {
            attempts: 4,
            min: Duration::from_millis(100),
            max: Duration::from_secs(5),
            factor: 2.0,
            on: None,
            within: None,
        },
        on_error: None,
        undo: None,
        is_async: false,
        streams: false,
    }
}

/// A graph at that depth, whose nodes may name the nodes `around` it.
fn graph(random: &mut Prng, count: usize, depth: usize, around: &[String]) -> Graph {
    let mut nodes: Vec<Node> = Vec::new();
    for place in 0..count {
        let id = format!("{}{place}", ["n", "m", "k"][depth]);
        let mut parents: Vec<usize> = (0..place).filter(|_| random.chance(350)).collect();
        parents.truncate(3);
        let sources: Vec<usize> = parents.iter().copied().filter(|_| random.chance(800)).collect();
        let named: Vec<String> = sources.iter().map(|source| nodes[*source].id.clone()).collect();
        let mut seen = named.clone();
        seen.extend(around.iter().filter(|_| random.chance(300)).cloned());
        let any = |random: &mut Prng| match seen.is_empty() {
            true => "(input.v | default(1, true))".to_owned(),
            false => format!("({}.v | default(1, true))", seen[random.below(seen.len() as u64) as usize]),
        };
        let does = match random.below(20) {
            0..3 => Does::Set(Template::Map(vec![(
                "v".to_owned(),
                Template::Value(expression(&format!("{} + {place}", any(random)))),
            )])),
            3 => Does::Wait(Wait::For(Template::Plain(json!(format!("{}ms", random.below(9000)))))),
            4 => Does::Wait(Wait::Signal("go".to_owned())),
            5..8 if depth < 2 => {
                let inner_around: Vec<String> = seen.clone();
                Does::Group(graph(random, 1 + random.clone().below(3) as usize, depth + 1, &inner_around))
            }
            _ => Does::Call(call(&id)),
        };
        let mut node = plain(&id, does);
        (node.parents, node.sources) = (parents, sources);
        if random.chance(400) && matches!(node.does, Does::Call(_)) {
            let entries = seen.iter().map(|id| (id.clone(), Template::Value(expression(id)))).collect();
            node.input = Input::Given(Template::Map(entries));
        }
        if random.chance(200) {
            node.when = Some(expression(&format!("{} % 3 != 0", any(random))));
        }
        if random.chance(250) && !matches!(node.does, Does::Wait(_)) {
            node.each = Some(Each {
                over: expression(&format!("range({} % 6)", any(random))),
                parallel: 1 + random.below(3) as u32,
                tolerate: if random.chance(500) { Tolerate::Items(1) } else { Tolerate::Percent(20.0) },
            });
        }
        if random.chance(300) {
            node.on_error = Some(Template::Map(vec![("v".to_owned(), Template::Plain(json!(41)))]));
        }
        if random.chance(300) && matches!(node.does, Does::Call(_)) {
            node.undo = Some(Undo { call: call("undo"), input: Input::Usual });
        }
        node.is_async = random.chance(100);
        nodes.push(node);
    }
    Graph { nodes }
}

fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What a function answers to the call of a key, or that it never does.
pub fn answer(seed: u64, key: &str, input: &Value) -> Option<Value> {
    // Nothing that takes back or tidies up fails: that it does not matter is another test's.
    let fails = digest(&format!("{seed}/{key}")) % 100 < 4 && !key.starts_with('~');
    (!fails).then(|| json!({ "v": digest(&format!("{key}{input}")) % 1000 }))
}

/// How many calls of a key fail before one is answered.
pub fn stumbles(seed: u64, key: &str) -> u32 {
    (digest(&format!("{key}/{seed}")) % 20).saturating_sub(17) as u32
}

/// What a run comes to.
#[derive(Debug, Default)]
pub struct Right {
    /// What each key of a call gave.
    pub gave: BTreeMap<String, Value>,
    /// The keys whose calls fail for good.
    pub failing: Vec<String>,
    /// What the flow gives; nothing if it fails.
    pub output: Option<Value>,
}

/// Evaluates a flow, one node after the other.
pub fn right(seed: u64, file: &File, input: &Value, said: &Value) -> Right {
    let mut right = Right::default();
    let names = BTreeMap::from([("input".to_owned(), input.clone())]);
    let plain = Plain { seed, said: said.clone() };
    right.output = plain.graph(&file.flows[FLOW].graph, "", names, &mut right);
    right
}

struct Plain {
    seed: u64,
    said: Value,
}

impl Plain {
    /// What a graph gives; nothing where something in it fails.
    fn graph(&self, graph: &Graph, prefix: &str, names: BTreeMap<String, Value>, right: &mut Right) -> Option<Value> {
        let mut names = names;
        // A node that was not done is none, and is known as such.
        let mut skipped = vec![false; graph.nodes.len()];
        let mut whole = true;
        for (place, node) in graph.nodes.iter().enumerate() {
            let parents_failed = node.parents.iter().any(|parent| !names.contains_key(&graph.nodes[*parent].id));
            if parents_failed {
                whole = false;
                continue;
            }
            let all_skipped = !node.parents.is_empty() && node.parents.iter().all(|parent| skipped[*parent]);
            if all_skipped || node.when.as_ref().is_some_and(|when| value(when, &names) != json!(true)) {
                skipped[place] = true;
                names.insert(node.id.clone(), Value::Null);
                continue;
            }
            match self.node(graph, node, prefix, &names, right) {
                Some(value) => drop(names.insert(node.id.clone(), value)),
                None => whole = false,
            }
        }
        if !whole {
            return None;
        }
        let leaves = graph.leaves();
        Some(match leaves[..] {
            [leaf] => names[&graph.nodes[leaf].id].clone(),
            _ => {
                let map: Map<_, _> = leaves
                    .iter()
                    .map(|leaf| &graph.nodes[*leaf].id)
                    .map(|id| (id.clone(), names[id].clone()))
                    .collect();
                map.into()
            }
        })
    }

    fn node(
        &self,
        graph: &Graph,
        node: &Node,
        prefix: &str,
        names: &BTreeMap<String, Value>,
        right: &mut Right,
    ) -> Option<Value> {
        let usual = || match node.sources[..] {
            [] => names.get("item").unwrap_or(&names["input"]).clone(),
            [one] => names[&graph.nodes[one].id].clone(),
            _ => {
                let ids = node.sources.iter().map(|source| &graph.nodes[*source].id);
                Value::Object(ids.map(|id| (id.clone(), names[id].clone())).collect())
            }
        };
        let Some(each) = &node.each else {
            let key = format!("{prefix}{}", node.id);
            return self.once(node, &key, usual(), names.clone(), right).or_else(|| instead(node));
        };
        let items = value(&each.over, names);
        let items = items.as_array().unwrap();
        let mut failed = 0;
        let mut outputs = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = format!("{prefix}{}.{index}", node.id);
            let mut names = names.clone();
            names.insert("item".to_owned(), item.clone());
            names.insert("index".to_owned(), json!(index));
            match self.once(node, &key, item.clone(), names, right).or_else(|| instead(node)) {
                Some(output) => outputs.push(output),
                None => {
                    failed += 1;
                    outputs.push(Value::Null);
                }
            }
        }
        let tolerated = match each.tolerate {
            Tolerate::Items(items) => items as usize,
            Tolerate::Percent(percent) => (items.len() as f64 * percent / 100.0).floor() as usize,
        };
        (failed <= tolerated).then(|| outputs.into())
    }

    fn once(
        &self,
        node: &Node,
        key: &str,
        usual: Value,
        names: BTreeMap<String, Value>,
        right: &mut Right,
    ) -> Option<Value> {
        match &node.does {
            Does::Call(_) => {
                let input = match &node.input {
                    Input::Usual => usual,
                    Input::Given(template) => plainly(template, &names),
                };
                match answer(self.seed, key, &input) {
                    Some(value) => {
                        right.gave.insert(key.to_owned(), value.clone());
                        Some(value)
                    }
                    None => {
                        right.failing.push(key.to_owned());
                        None
                    }
                }
            }
            Does::Set(template) => Some(plainly(template, &names)),
            Does::Wait(Wait::Signal(_)) => Some(self.said.clone()),
            Does::Wait(_) => Some(Value::Null),
            Does::Group(inner) => self.graph(inner, &format!("{key}."), names, right),
            Does::Flow(_) => None,
        }
    }
}

fn instead(node: &Node) -> Option<Value> {
    node.on_error.as_ref().map(|template| plainly(template, &BTreeMap::new()))
}

fn plainly(template: &Template, names: &BTreeMap<String, Value>) -> Value {
    match template {
        Template::Plain(plain) => plain.clone(),
        Template::Value(expression) => value(expression, names),
        Template::Map(entries) => {
            entries.iter().map(|(name, template)| (name.clone(), plainly(template, names))).collect()
        }
        _ => panic!("no such template is drawn"),
    }
}

fn value(expression: &Expression, names: &BTreeMap<String, Value>) -> Value {
    let budget = Budget::new(Limits { steps: 1_000_000, bytes: 1 << 20, output_bytes: 1 << 20 });
    let named = |name: &str| names.get(name).map(|value| Seen::from_json(value, &budget).unwrap());
    expression.eval(&named, &budget).and_then(|value| value.to_json(&budget)).unwrap()
}
