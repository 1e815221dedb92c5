//! Which node waits for which, and that none waits for itself.

use super::reading::{Fields, Reading};
use super::report::quoted;
use super::tree::{Key, Tree};
use super::{names, nodes};
use crate::definition::{Graph, Node, Place};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Most nodes of a file.
const MAX_NODES: usize = 10_000;
/// Most groups in each other.
const MAX_GROUPS: usize = 8;

/// A graph while its nodes are read.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub ids: BTreeMap<String, usize>,
    /// The node that is read; `None` where all nodes are over, and nobody waits for them.
    at: Option<usize>,
    edges: Vec<BTreeMap<usize, Edge>>,
}

/// That a node waits for another.
#[derive(Clone, Copy, Debug)]
struct Edge {
    /// Where that is said.
    place: Place,
    brings: bool,
}

impl Level {
    /// Lets what is read from now on see its nodes without waiting for them.
    pub(super) fn close(&mut self) {
        self.at = None;
    }

    /// Whether its nodes are still being read.
    pub(super) fn is_read(&self) -> bool {
        self.at.is_some()
    }
}

impl Reading<'_> {
    /// The graph of a map of nodes that is the value of `name`.
    pub(super) fn graph(&mut self, tree: &Tree, name: &str) -> (Graph, Level) {
        if let super::tree::What::List(_) = &tree.what {
            self.problem(tree.place, format!("`{name}` is a map of ids and nodes: this is a list"));
            return Default::default();
        }
        let entries = self.entries(tree, &format!("`{name}`"));
        let groups = self.levels.iter().filter(|level| level.is_read()).count();
        if groups > MAX_GROUPS {
            self.problem(tree.place, format!("groups nest more than {MAX_GROUPS} deep"));
            return Default::default();
        }
        if self.take_nodes(entries.len(), tree.place).is_none() {
            return Default::default();
        }
        let ids = entries.iter().map(|(key, _)| key.text.clone()).collect();
        entries.iter().for_each(|(key, _)| self.check_id(key));
        self.graph_of(ids, |reading, i| {
            let (key, value): &(Key, Rc<Tree>) = entries.get(i)?;
            Some(nodes::node(reading, key, value))
        })
    }

    /// Counts nodes; `None` where there are too many, which is told once.
    pub(super) fn take_nodes(&mut self, count: usize, place: Place) -> Option<()> {
        if self.nodes + count <= MAX_NODES {
            self.nodes += count;
            return Some(());
        }
        if self.nodes <= MAX_NODES {
            self.problem(place, format!("the file has more than {MAX_NODES} nodes"));
        }
        self.nodes = MAX_NODES + 1;
        None
    }

    fn check_id(&mut self, key: &Key) {
        if let Err(words) = names::id(&key.text) {
            self.problem(key.place, words);
        } else if self.levels.iter().any(|level| level.ids.contains_key(&key.text)) {
            self.problem(
                key.place,
                format!("the id {} is that of a node around it: choose another", quoted(&key.text)),
            );
        }
    }

    /// The graph of the nodes `ids`, each of which `read` reads.
    pub(super) fn graph_of(
        &mut self,
        ids: Vec<String>,
        mut read: impl FnMut(&mut Self, usize) -> Option<Node>,
    ) -> (Graph, Level) {
        let count = ids.len();
        let ids = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        self.levels.push(Level { ids, at: Some(0), edges: vec![BTreeMap::new(); count] });
        let mut nodes = Vec::with_capacity(count);
        for i in 0..count {
            if let Some(level) = self.levels.last_mut() {
                level.at = Some(i);
            }
            nodes.extend(read(self, i));
        }
        let level = self.levels.pop().unwrap_or_default();
        self.connect(&mut nodes, &level.edges);
        (Graph { nodes }, level)
    }

    /// Notes that the node that is read waits for `id`, which brings it something or only comes first.
    pub(super) fn mentions(&mut self, id: &str, place: Place, brings: bool) {
        let output = self.sight.output;
        for level in self.levels.iter_mut().rev() {
            let Some(from) = level.ids.get(id).copied() else { continue };
            let Some(at) = level.at else { return };
            if output && from == at {
                return self.problem(place, format!("in `undo`, what {} gave is `output`", quoted(id)));
            }
            if let Some(edges) = level.edges.get_mut(at) {
                edges.entry(from).or_insert(Edge { place, brings }).brings |= brings;
            }
            return;
        }
        self.no_node(id, place);
    }

    /// Notes that the node that is read comes after those of `after`.
    pub(super) fn after(&mut self, fields: &Fields<'_>) {
        let Some((key, tree)) = fields.get("after") else { return };
        for (id, place) in self.texts(tree, &key.text) {
            self.mentions(&id, place, false);
        }
    }

    /// Notes that the node that is read follows node `from` of its graph.
    pub(super) fn follows(&mut self, from: usize, place: Place, brings: bool) {
        if let Some(level) = self.levels.last_mut()
            && let Some(edges) = level.at.and_then(|at| level.edges.get_mut(at))
        {
            edges.entry(from).or_insert(Edge { place, brings }).brings |= brings;
        }
    }

    /// Checks `edges` and writes them into `nodes`.
    fn connect(&mut self, nodes: &mut [Node], edges: &[BTreeMap<usize, Edge>]) {
        for (from, edge) in edges.iter().flatten() {
            if let Some(node) = nodes.get(*from).filter(|node| node.is_async) {
                let id = quoted(&node.id);
                let words =
                    format!("{id} is asynchronous, so that no node waits for it: take that from it, or do not name it");
                self.problem(edge.place, words);
            }
        }
        let parents: Vec<Vec<usize>> = edges.iter().map(|edges| edges.keys().copied().collect()).collect();
        for circle in circles(&parents) {
            let way: Vec<&str> =
                circle.iter().chain(circle.first()).filter_map(|i| Some(&*nodes.get(*i)?.id)).collect();
            let edge = circle.first().zip(circle.last()).and_then(|(first, last)| edges.get(*first)?.get(last));
            let place = edge.map(|edge| edge.place).unwrap_or_default();
            self.problem(place, format!("nodes wait for each other in a circle: {}", shown(&way)));
        }
        for (node, edges) in nodes.iter_mut().zip(edges) {
            node.parents = edges.keys().copied().collect();
            node.sources = edges.iter().filter(|(_, edge)| edge.brings).map(|(from, _)| *from).collect();
        }
    }
}

/// A way from name to name; of a long one its ends.
pub(super) fn shown(way: &[&str]) -> String {
    match way {
        [first @ .., _, _, _] if first.len() > 17 => {
            format!("{} → … → {}", way[..10].join(" → "), way[way.len() - 3..].join(" → "))
        }
        _ => way.join(" → "),
    }
}

/// Circles among what waits for its `parents`, no two with a common member: each from its first member on, in the order in which one
/// would follow the other.
pub(super) fn circles(parents: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut children = vec![Vec::new(); parents.len()];
    let mut missing: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (child, parents) in parents.iter().enumerate() {
        parents.iter().for_each(|parent| children[*parent].push(child));
    }
    let mut ready: Vec<usize> = (0..parents.len()).filter(|i| missing[*i] == 0).collect();
    let mut over = vec![false; parents.len()];
    let (mut found, mut next) = (Vec::new(), 0);
    loop {
        while let Some(node) = ready.pop() {
            over[node] = true;
            for child in &children[node] {
                missing[*child] = missing[*child].saturating_sub(1);
                if missing[*child] == 0 && !over[*child] {
                    ready.push(*child);
                }
            }
        }
        next += over[next..].iter().take_while(|over| **over).count();
        if next >= parents.len() {
            return found;
        }
        // Everybody who is left waits for somebody who is left, so the way back comes to a place where it was.
        let (mut way, mut at) = (Vec::new(), next);
        let mut seen = HashMap::new();
        while !seen.contains_key(&at) {
            seen.insert(at, way.len());
            way.push(at);
            at = parents[at].iter().copied().find(|parent| !over[*parent]).unwrap_or(at);
        }
        let mut circle = way.split_off(seen[&at]);
        circle.reverse();
        let first = circle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(place, _)| place);
        circle.rotate_left(first);
        for node in &circle {
            over[*node] = true;
        }
        ready.extend(&circle);
        found.push(circle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_whole_and_once() {
        assert_eq!(circles(&[vec![], vec![0], vec![0, 1]]), Vec::<Vec<usize>>::new());
        assert_eq!(circles(&[vec![2], vec![0], vec![1], vec![2]]), [[0, 1, 2]]);
        assert_eq!(circles(&[vec![0]]), [[0]]);
        assert_eq!(circles(&[vec![1], vec![0], vec![3], vec![2]]), [[0, 1], [2, 3]]);
        // One that leads into a circle is in none.
        assert_eq!(circles(&[vec![1], vec![2], vec![1]]), [[1, 2]]);
        let long: Vec<Vec<usize>> = (0..10_000).map(|i| vec![(i + 1) % 10_000]).collect();
        assert_eq!(circles(&long)[0].len(), 10_000);
    }
}
