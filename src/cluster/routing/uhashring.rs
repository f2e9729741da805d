//! The rule `meta-memcache`, which is that of the package uhashring: 160 points of 128 bits a node.
use super::RoutedNode;
use super::hash::md5_number;
use super::ketama::numbered;
use super::ring::Ring;

const POINTS: u32 = 160;

#[derive(Debug)]
pub struct UhashringRouter {
    ring: Ring<u128>,
    only: Option<usize>,
}

impl UhashringRouter {
    pub fn new(nodes: &[RoutedNode]) -> Self {
        let only = (nodes.len() == 1).then_some(0);
        let several = if only.is_some() { &[] } else { nodes };
        let points = |node: &RoutedNode| {
            let id = node.id.clone();
            (0..POINTS).map(move |i| md5_number(&numbered(&id, i)))
        };
        Self { ring: Ring::new(several.iter().map(points)), only }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        self.only.or_else(|| self.ring.after(md5_number(key)))
    }
}
