//! Wanted paths of one source as a tree that a scanner walks beside the payload.
//!
//! A path is dotted, `a.0.b`; a step of digits is an index where an array stands and a key where an object stands. A dot inside a
//! key is written `\.`.

use depin_domain::model::sources::{PathError, steps};

/// No node: what stands here is only skipped.
pub(super) const NOWHERE: u32 = u32::MAX;
/// The document itself.
pub(super) const ROOT: u32 = 0;

#[derive(Debug)]
struct Child {
    key: Box<[u8]>,
    index: Option<u64>,
    node: u32,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<Child>,
    slots: Vec<usize>,
    /// The node that an array's elements are read by, one after another.
    each: Option<u32>,
    /// Keys that end in `_` must be understood (SenML).
    strict: bool,
}

/// All wanted paths of a source.
#[derive(Debug)]
pub(super) struct PathTree {
    nodes: Vec<Node>,
    pub(super) slots: usize,
}

impl PathTree {
    /// A tree that captures into `slots` places.
    pub(super) fn new(slots: usize) -> Self {
        Self { nodes: vec![Node::default()], slots }
    }

    /// Captures what stands at `path` below `from`.
    pub(super) fn want(&mut self, from: u32, path: &str, slot: usize) -> Result<(), PathError> {
        let node = self.descend(from, path)?;
        if let Some(node) = self.node_mut(node) {
            node.slots.push(slot);
        }
        Ok(())
    }

    /// Reads the array at `path` element by element; the answer is the node of an element.
    pub(super) fn each(&mut self, path: &str) -> Result<u32, PathError> {
        let array = self.descend(ROOT, path)?;
        let element = self.add();
        if let Some(node) = self.node_mut(array) {
            node.each = Some(element);
        }
        Ok(element)
    }

    /// Keys at `node` that end in `_` make the payload malformed.
    pub(super) fn strict(&mut self, node: u32) {
        if let Some(node) = self.node_mut(node) {
            node.strict = true;
        }
    }

    fn descend(&mut self, from: u32, path: &str) -> Result<u32, PathError> {
        let mut at = from;
        for step in steps(path)? {
            let found = self.member(at, step.as_bytes());
            at = if found == NOWHERE {
                let node = self.add();
                let child = Child { index: step.parse().ok(), key: step.into_bytes().into_boxed_slice(), node };
                if let Some(parent) = self.node_mut(at) {
                    parent.children.push(child);
                }
                node
            } else {
                found
            };
        }
        Ok(at)
    }

    fn add(&mut self) -> u32 {
        self.nodes.push(Node::default());
        u32::try_from(self.nodes.len() - 1).unwrap_or(NOWHERE)
    }

    fn node_mut(&mut self, node: u32) -> Option<&mut Node> {
        self.nodes.get_mut(usize::try_from(node).ok()?)
    }

    #[inline]
    fn node(&self, node: u32) -> Option<&Node> {
        self.nodes.get(usize::try_from(node).ok()?)
    }

    /// The node of an object's member.
    #[inline]
    pub(super) fn member(&self, node: u32, key: &[u8]) -> u32 {
        let Some(node) = self.node(node) else { return NOWHERE };
        node.children.iter().find(|child| *child.key == *key).map_or(NOWHERE, |child| child.node)
    }

    /// The node of an array's element by index.
    #[inline]
    pub(super) fn element(&self, node: u32, index: u64) -> u32 {
        let Some(node) = self.node(node) else { return NOWHERE };
        node.children.iter().find(|child| child.index == Some(index)).map_or(NOWHERE, |child| child.node)
    }

    /// Where the value at `node` is captured.
    #[inline]
    pub(super) fn slots_at(&self, node: u32) -> &[usize] {
        self.node(node).map_or(&[], |node| &node.slots)
    }

    /// The node by which elements are read one by one.
    #[inline]
    pub(super) fn each_at(&self, node: u32) -> Option<u32> {
        self.node(node)?.each
    }

    /// Whether unknown keys that end in `_` are a flaw here.
    #[inline]
    pub(super) fn is_strict(&self, node: u32) -> bool {
        self.node(node).is_some_and(|node| node.strict)
    }
}
