//! Frames: what the nodes of one graph have come to.

use super::super::logged::{Failure, Given, Phase, With};
use crate::definition::{Does, File, Graph};
use stageline_core::durable::Wall;
use std::sync::Arc;

/// Where in a file a graph is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) struct Place {
    flow: Arc<str>,
    part: Phase,
    /// The groups that it is in, by their place among the nodes.
    groups: Arc<[usize]>,
}

impl Place {
    pub(in crate::run) fn root(flow: &str, part: Phase) -> Self {
        Self { flow: flow.into(), part, groups: Arc::default() }
    }

    /// The place of what is in the group or sub-flow `node` of this one.
    pub(super) fn inside(&self, node: usize, does: &Does) -> Option<Self> {
        match does {
            Does::Group(_) => {
                let groups = self.groups.iter().copied().chain([node]).collect();
                Some(Self { groups, ..self.clone() })
            }
            Does::Flow(name) => Some(Self::root(name, Phase::Main)),
            _ => None,
        }
    }

    pub(in crate::run) fn graph<'f>(&self, file: &'f File) -> Option<&'f Graph> {
        let flow = file.flows.get(&*self.flow)?;
        let root = match self.part {
            Phase::OnFailure => &flow.on_failure,
            Phase::Finally => &flow.finally,
            Phase::Main | Phase::Undoing => &flow.graph,
        };
        self.groups.iter().try_fold(root, |graph, node| match &graph.nodes.get(*node)?.does {
            Does::Group(graph) => Some(graph),
            _ => None,
        })
    }

    /// The flow whose graph it is.
    pub(in crate::run) fn flow(&self) -> &str {
        &self.flow
    }
}

/// The slot that holds a frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::run) struct Up {
    pub(in crate::run) frame: usize,
    pub(in crate::run) node: usize,
    pub(in crate::run) item: Option<u32>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::run) struct Frame {
    pub(in crate::run) place: Place,
    /// What its keys begin with.
    pub(in crate::run) prefix: Arc<str>,
    pub(in crate::run) up: Option<Up>,
    /// What its nodes see as `input`, where that is not what is around it.
    pub(in crate::run) input: Option<Given>,
    /// Whether it sees what is around it.
    pub(in crate::run) sees_out: bool,
    pub(in crate::run) nodes: Vec<NodeState>,
    /// Nodes that nothing has become of yet.
    pub(in crate::run) left: usize,
    /// Whether nothing in it counts any more.
    pub(in crate::run) over: bool,
    /// Whether something in it failed: what waits for that is not done.
    pub(in crate::run) failed: bool,
}

/// What a node has come to.
#[derive(Clone, Debug)]
pub(in crate::run) enum NodeState {
    /// It waits for its parents, or is about to be looked at.
    Waiting,
    /// It was not done.
    Skipped,
    /// It is begun, or done, once.
    One(Slot),
    /// The same for each item.
    Each(Box<Fan>),
}

/// A node that is done for items.
#[derive(Clone, Debug)]
pub(in crate::run) struct Fan {
    /// The list or the map.
    pub(in crate::run) items: Given,
    pub(in crate::run) slots: Vec<Slot>,
    /// All before it are begun.
    pub(in crate::run) next: usize,
    /// Begun, and neither done nor failed.
    pub(in crate::run) running: usize,
    pub(in crate::run) done: usize,
    pub(in crate::run) failed: usize,
    /// How many may fail.
    pub(in crate::run) tolerated: usize,
}

impl Fan {
    /// Whether all items are done or failed.
    pub(in crate::run) fn is_settled(&self) -> bool {
        self.done + self.failed == self.slots.len()
    }
}

/// One call, wait, value or frame of a node.
#[derive(Clone, Debug, Default)]
pub(in crate::run) struct Slot {
    pub(in crate::run) state: SlotState,
    /// The frame that it holds or held.
    pub(in crate::run) inner: Option<usize>,
    /// Calls so far.
    pub(in crate::run) attempt: u32,
    /// Those of them that failed and count, and those of those that took too long.
    pub(in crate::run) strikes: u32,
    pub(in crate::run) timeouts: u32,
    /// When the first was made.
    pub(in crate::run) since: Wall,
    /// With what it is called.
    pub(in crate::run) input: Option<Given>,
    pub(in crate::run) with: With,
}

#[derive(Clone, Debug, Default)]
pub(in crate::run) enum SlotState {
    /// Not begun.
    #[default]
    Idle,
    /// A call is under way.
    Called,
    /// It is called again then.
    Resting(Wall),
    /// It waits until then.
    Waits(Wall),
    /// What that frame does is done.
    Inside(usize),
    /// It failed, and something is said to go on with.
    Broken(Failure),
    /// It is done, and gave this.
    Done(Given),
    /// It failed.
    Failed,
}

impl Slot {
    pub(in crate::run) fn is_settled(&self) -> bool {
        matches!(self.state, SlotState::Done(_) | SlotState::Failed)
    }
}

impl NodeState {
    pub(in crate::run) fn is_fanned(&self) -> bool {
        matches!(self, Self::Each(_))
    }

    /// Whether what waits for it need not wait any more.
    pub(in crate::run) fn is_settled(&self) -> bool {
        match self {
            Self::Waiting => false,
            Self::Skipped => true,
            Self::One(slot) => matches!(slot.state, SlotState::Done(_)),
            Self::Each(fan) => fan.is_settled() && fan.failed <= fan.tolerated,
        }
    }

    /// Whether something of it is under way, or about to be.
    pub(in crate::run) fn is_begun(&self) -> bool {
        match self {
            Self::Waiting | Self::Skipped => false,
            Self::One(slot) => !slot.is_settled(),
            Self::Each(fan) => !fan.is_settled() && fan.failed <= fan.tolerated,
        }
    }

    /// Its slots, with the item that each is for.
    pub(in crate::run) fn slots(&self) -> impl Iterator<Item = (Option<u32>, &Slot)> {
        let (one, each) = match self {
            Self::One(slot) => (Some((None, slot)), None),
            Self::Each(fan) => (None, Some(fan.slots.iter().enumerate())),
            Self::Waiting | Self::Skipped => (None, None),
        };
        let each = each.into_iter().flatten().map(|(item, slot)| (Some(item as u32), slot));
        one.into_iter().chain(each)
    }

    pub(in crate::run) fn slot(&self, item: Option<u32>) -> Option<&Slot> {
        match (self, item) {
            (Self::One(slot), None) => Some(slot),
            (Self::Each(fan), Some(item)) => fan.slots.get(item as usize),
            _ => None,
        }
    }

    pub(in crate::run) fn slot_mut(&mut self, item: Option<u32>) -> Option<&mut Slot> {
        match (self, item) {
            (Self::One(slot), None) => Some(slot),
            (Self::Each(fan), Some(item)) => fan.slots.get_mut(item as usize),
            _ => None,
        }
    }
}

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Work {
    /// A node that waits for nothing more, or whose next items may be begun.
    Node {
        /// In which frame.
        frame: usize,
        /// Which.
        node: usize,
    },
    /// A slot that failed, and goes on with what is said.
    Broken {
        /// In which frame.
        frame: usize,
        /// Of which node.
        node: usize,
        /// For which item.
        item: Option<u32>,
    },
    /// A frame all of whose nodes are done.
    Frame(usize),
}
