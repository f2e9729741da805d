//! The rule `memcachio`: rendezvous hashing with the MD5 of the node's repr and the key.
use std::cmp::Reverse;

use md5::{Digest, Md5};

use super::RoutedNode;

#[derive(Debug)]
pub struct MemcachioRouter {
    /// The hash of each node's id.
    nodes: Vec<Md5>,
}

impl MemcachioRouter {
    pub fn new(nodes: &[RoutedNode]) -> Self {
        Self { nodes: nodes.iter().map(|node| Md5::new_with_prefix(&node.id)).collect() }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.nodes.len() <= 1 {
            return self.nodes.len().checked_sub(1);
        }
        let score =
            |node: &Md5| u128::from_be_bytes(node.clone().chain_update(key).finalize().into());
        let scores = self.nodes.iter().map(score).enumerate();
        scores.max_by_key(|(at, score)| (*score, Reverse(*at))).map(|(at, _)| at)
    }
}
