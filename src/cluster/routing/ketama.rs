//! The rules `ketama` (libmemcached, twemproxy) and `spymemcached`: each node has 40 names, whose
//! MD5 gives four points each.
use std::sync::Arc;

use super::RoutedNode;
use super::hash::KeyHash;
use super::md5_names::hash_numbered;
use super::ring::RingRouter;

/// The names of a node with an average weight.
const NAMES: u32 = 40;

pub fn router(nodes: &[RoutedNode], hash: KeyHash) -> RingRouter {
    let total: u32 = nodes.iter().map(|node| node.weight).sum();
    let names = |node: &RoutedNode| name_count(node.weight, total, nodes.len());
    RingRouter::from_points(nodes, hash, |several, points| {
        hash_numbered(names_of(several, names), |position, words| {
            points.extend(words.map(|point| (point, position)));
        });
    })
}

/// The number of names of a node, computed in `float` as in C.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn name_count(weight: u32, total: u32, node_count: usize) -> u32 {
    let share = weight as f32 / total as f32;
    let names = f64::from(share * NAMES as f32 * node_count as f32) + 1e-10;
    (names as f32).floor() as u32
}

/// The names of nodes for [`hash_numbered`], with the positions of the nodes.
pub fn names_of(
    nodes: &[RoutedNode],
    count: impl Fn(&RoutedNode) -> u32,
) -> impl Iterator<Item = (u32, &Arc<[u8]>, u32)> {
    (0..).zip(nodes).flat_map(move |(position, node)| {
        (0..count(node)).map(move |number| (position, &node.id, number))
    })
}

/// `name-i`.
pub fn numbered(name: &[u8], i: u32) -> Vec<u8> {
    [name, b"-", itoa::Buffer::new().format(i).as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shared_by_weight() {
        assert!((1..=1000).all(|count| {
            let total = u32::try_from(count).unwrap();
            name_count(1, total, count) >= NAMES - 1
        }));
        assert_eq!([3, 1, 2].map(|weight| name_count(weight, 6, 3)), [60, 20, 40]);
        assert_eq!([1, 1000].map(|weight| name_count(weight, 1001, 2)), [0, 79]);
    }
}
