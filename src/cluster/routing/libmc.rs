//! The rule `libmc`, which is libmemcached's consistent distribution without weights: 100 points a
//! node, each the hash of a name.
use super::RoutedNode;
use super::hash::KeyHash;
use super::ketama::{self, numbered};
use super::ring::RingRouter;

const POINTS: u32 = 100;

/// `of_names` is the hash of the nodes' names.
pub fn router(nodes: &[RoutedNode], hash: KeyHash, of_names: KeyHash) -> RingRouter {
    RingRouter::new(nodes, hash, |node| {
        let name = node.id.clone();
        (0..POINTS).map(move |i| of_names.hash(&numbered(&name, i)))
    })
}

/// libmemcached's consistent distribution with its default hash. With weights it is ketama, whose
/// points are MD5s.
pub fn libmemcached_router(nodes: &[RoutedNode]) -> RingRouter {
    if nodes.iter().any(|node| node.weight > 1) {
        return ketama::router(nodes, KeyHash::OneAtATime);
    }
    router(nodes, KeyHash::OneAtATime, KeyHash::OneAtATime)
}
