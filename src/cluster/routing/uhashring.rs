//! The rule `meta-memcache`, which is that of the package uhashring: 160 points of 128 bits a node.
use super::RoutedNode;
use super::hash::md5_number;
use super::ketama::names_of;
use super::md5_names::hash_numbered;
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
        let mut points = Vec::new();
        hash_numbered(names_of(several, |_| POINTS), |position, words| {
            let number = words.map(u32::swap_bytes).into_iter();
            points.push((number.fold(0, |number, word| number << 32 | u128::from(word)), position));
        });
        Self { ring: Ring::<u128>::new(points), only }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        self.only.or_else(|| self.ring.after(md5_number(key)))
    }
}
