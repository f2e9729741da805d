//! The rules that count: the hash of the key modulo the number of nodes, or the sum of their
//! weights.
use super::RoutedNode;
use super::hash::KeyHash;

#[derive(Debug)]
pub struct ModuloRouter {
    hash: KeyHash,
    count: usize,
    /// For each node, the sum of its weight and those before it. Empty without weights.
    ends: Vec<u32>,
}

impl ModuloRouter {
    pub fn new(nodes: &[RoutedNode], hash: KeyHash) -> Self {
        let mut ends = Vec::new();
        if nodes.iter().any(|node| node.weight != 1) {
            ends.extend(nodes.iter().scan(0, |end, node| {
                *end += node.weight;
                Some(*end)
            }));
        }
        Self { hash, count: nodes.len(), ends }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.count <= 1 {
            return self.count.checked_sub(1);
        }
        let hash = self.hash.hash(key);
        match self.ends.last() {
            None => Some(hash as usize % self.count),
            Some(total) => Some(self.ends.partition_point(|end| *end <= hash % total)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stands_in_the_list_as_often_as_its_weight() {
        let nodes = [3, 1, 2].map(|weight| RoutedNode { id: [].into(), weight });
        let router = ModuloRouter::new(&nodes, KeyHash::Crc32High);
        for i in 0..100 {
            let key = format!("key:{i}");
            let listed = [0, 0, 0, 1, 2, 2];
            let at = KeyHash::Crc32High.hash(key.as_bytes()) as usize % listed.len();
            assert_eq!(router.pick(key.as_bytes()), Some(listed[at]), "{key}");
        }
    }
}
