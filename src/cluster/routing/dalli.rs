//! The rule `dalli` of the Ruby client.
use sha1::{Digest, Sha1};

use super::RoutedNode;
use super::hash::KeyHash;
use super::ring::RingRouter;

/// The points of a node with an average weight.
const POINTS: f64 = 160.0;

pub fn router(nodes: &[RoutedNode]) -> RingRouter {
    let total: u32 = nodes.iter().map(|node| node.weight).sum();
    let points = |node: &RoutedNode| {
        let id = node.id.clone();
        (0..point_count(node.weight, total, nodes.len())).map(move |i| point(&id, i))
    };
    RingRouter::new(nodes, KeyHash::Crc32, points).before()
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn point_count(weight: u32, total: u32, node_count: usize) -> u32 {
    (node_count as f64 * POINTS * f64::from(weight) / f64::from(total)).floor() as u32
}

fn point(id: &[u8], i: u32) -> u32 {
    let digest: [u8; 20] = Sha1::new()
        .chain_update(id)
        .chain_update(b":")
        .chain_update(itoa::Buffer::new().format(i))
        .finalize()
        .into();
    let [b0, b1, b2, b3, ..] = digest;
    u32::from_be_bytes([b0, b1, b2, b3])
}
