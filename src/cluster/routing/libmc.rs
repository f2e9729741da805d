//! The rule `libmc`, which is libmemcached's consistent distribution without weights: 100 points a
//! node, each the hash of a name.
use super::RoutedNode;
use super::hash::{KeyHash, one_at_a_time};
use super::ketama::{self, names_of, numbered};
use super::md5_names::hash_numbered;
use super::ring::RingRouter;

const POINTS: u32 = 100;

pub fn router(nodes: &[RoutedNode], hash: KeyHash) -> RingRouter {
    RingRouter::from_points(nodes, hash, |several, points| {
        hash_numbered(names_of(several, |_| POINTS), |position, [point, ..]| {
            points.push((point, position));
        });
    })
}

/// libmemcached's consistent distribution with its default hash. With weights it is ketama, whose
/// points are MD5s.
pub fn libmemcached_router(nodes: &[RoutedNode]) -> RingRouter {
    if nodes.iter().any(|node| node.weight > 1) {
        return ketama::router(nodes, KeyHash::OneAtATime);
    }
    RingRouter::new(nodes, KeyHash::OneAtATime, |node| {
        let name = node.id.clone();
        (0..POINTS).map(move |i| one_at_a_time(&numbered(&name, i)))
    })
}
