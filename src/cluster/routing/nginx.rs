//! The rule `nginx-consistent`, also that of Perl's `Cache::Memcached::Fast` with `ketama_points`.
use crc32fast::Hasher;

use super::RoutedNode;
use super::hash::KeyHash;
use super::ring::RingRouter;

/// `points` for each unit of weight. The id of a node is its host, a zero byte, and its port.
pub fn router(nodes: &[RoutedNode], points: u32) -> RingRouter {
    RingRouter::new(nodes, KeyHash::Crc32, |node| {
        let mut base = Hasher::new();
        base.update(&node.id);
        let mut point = 0_u32;
        (0..node.weight * points).map(move |_| {
            let mut hasher = base.clone();
            hasher.update(&point.to_le_bytes());
            point = hasher.finalize();
            point
        })
    })
}
