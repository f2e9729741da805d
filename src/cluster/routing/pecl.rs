//! The rule `pecl-memcache` of PHP's older extension: a ring whose points are entered in 1,024
//! slots.
use super::RoutedNode;
use super::hash::KeyHash;
use super::ketama::numbered;
use super::ring::Ring;

/// For each unit of weight.
pub const POINTS: u32 = 160;
const SLOTS: u32 = 1024;

#[derive(Debug)]
pub struct PeclRouter {
    slots: Vec<usize>,
    hash: KeyHash,
}

impl PeclRouter {
    pub fn new(nodes: &[RoutedNode], hash: KeyHash) -> Self {
        let points = |node: &RoutedNode| {
            let id = node.id.clone();
            (0..node.weight * POINTS).map(move |i| hash.hash(&numbered(&id, i)))
        };
        let ring = Ring::<u32>::new(
            (0..)
                .zip(nodes)
                .flat_map(|(position, node)| points(node).map(move |point| (point, position))),
        );
        let slots = (0..SLOTS).filter_map(|slot| ring.at_or_after(slot * (u32::MAX / SLOTS)));
        Self { slots: slots.collect(), hash }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        self.slots.get((self.hash.hash(key) % SLOTS) as usize).copied()
    }
}
