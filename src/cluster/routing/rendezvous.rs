//! The rule `rendezvous`, for clusters that only emcache uses. Adding, removing or reweighting a
//! node moves no key between the other nodes.
//!
//! ```text
//! h(x)  = the first half of MurmurHash3 x64 128 of x, seed 0, little-endian
//! score = fmix64(h(key) ^ h("host:port")), fmix64 being MurmurHash3's finalizer
//! u     = ((score >> 12) + 0.5) / 2**52
//! ```
//!
//! The node with the greatest `weight / -ln(u)` gets the key. Among nodes with equal weights that
//! is the one with the greatest score.
use super::RoutedNode;
use super::murmur3::{Murmur, avalanche};

#[derive(Debug)]
pub struct RendezvousRouter {
    /// The nodes by weight.
    groups: Vec<Group>,
}

/// The nodes of one weight.
#[derive(Debug)]
struct Group {
    weight: f64,
    hashes: Vec<u64>,
    /// Their positions in the list.
    positions: Vec<usize>,
}

impl RendezvousRouter {
    pub fn new(nodes: &[RoutedNode]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (position, node) in nodes.iter().enumerate() {
            let weight = f64::from(node.weight);
            // Weights are whole numbers, so they can be compared.
            let at = groups.iter().position(|group| group.weight.total_cmp(&weight).is_eq());
            let at = at.unwrap_or_else(|| {
                groups.push(Group { weight, hashes: Vec::new(), positions: Vec::new() });
                groups.len() - 1
            });
            groups[at].hashes.push(Murmur::digest(&node.id));
            groups[at].positions.push(position);
        }
        // The order of the groups decides between equal costs, and must not depend on the list.
        groups.sort_by(|a, b| a.weight.total_cmp(&b.weight));
        Self { groups }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        match self.groups.as_slice() {
            [] => None,
            [group] if group.hashes.len() == 1 => Some(group.positions[0]),
            [group] => Some(group.positions[group.best(Murmur::digest(key)).1]),
            groups => {
                let key = Murmur::digest(key);
                let costs = groups.iter().map(|group| {
                    let (score, at) = group.best(key);
                    (cost(score) / group.weight, group.positions[at])
                });
                costs.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, position)| position)
            }
        }
    }
}

impl Group {
    /// The highest score, and its place in the group. The first of equal ones wins.
    fn best(&self, key: u64) -> (u64, usize) {
        let mut best = (0, 0);
        for (at, hash) in self.hashes.iter().enumerate() {
            let score = avalanche(key ^ hash);
            if score > best.0 {
                best = (score, at);
            }
        }
        best
    }
}

/// `-ln(u)`, from `libm`, because the results of systems' own functions differ in the last digit.
#[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn cost(score: u64) -> f64 {
    -libm::log(((score >> 12) as f64 + 0.5) / (1_u64 << 52) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(nodes: &[(&str, u32)]) -> RendezvousRouter {
        let node =
            |(id, weight): &(&str, u32)| RoutedNode { id: id.as_bytes().into(), weight: *weight };
        RendezvousRouter::new(&nodes.iter().map(node).collect::<Vec<_>>())
    }

    fn picks(nodes: &[(&str, u32)]) -> Vec<String> {
        let router = router(nodes);
        let pick = |i| router.pick(format!("key:{i}").as_bytes()).unwrap();
        (0..20_000).map(|i| nodes[pick(i)].0.to_owned()).collect()
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let nodes = [("a:1", 1), ("b:1", 3), ("c:1", 1), ("d:1", 2)];
        let mut turned = nodes;
        turned.reverse();
        assert_eq!(picks(&nodes), picks(&turned));
    }

    #[test]
    fn keys_move_only_to_a_new_node_or_a_heavier_one() {
        let nodes = [("a:1", 1), ("b:1", 3), ("c:1", 1), ("d:1", 2)];
        let before = picks(&nodes);
        let heavier = [("a:1", 1), ("b:1", 3), ("c:1", 4), ("d:1", 2)];
        let more = [("a:1", 1), ("b:1", 3), ("c:1", 1), ("d:1", 2), ("e:1", 2)];
        for (changed, gains) in [(heavier.as_slice(), "c:1"), (&more, "e:1")] {
            let moved: Vec<_> =
                before.iter().zip(picks(changed)).filter(|(old, new)| *old != new).collect();
            assert!(moved.len() > 1_000, "{}", moved.len());
            assert!(moved.iter().all(|(_, new)| new == gains));
        }
    }

    #[test]
    fn nodes_get_keys_by_their_weights() {
        let nodes = [("a:1", 1), ("b:1", 3), ("c:1", 1), ("d:1", 5)];
        let picks = picks(&nodes);
        for (id, weight) in nodes {
            let share = picks.iter().filter(|picked| *picked == id).count();
            let expected = 2_000 * weight as usize;
            assert!(share.abs_diff(expected) < expected / 10, "{id} {share} {expected}");
        }
    }

    #[test]
    fn equal_weights_of_any_size_are_no_weights() {
        let [ones, nines] = [1, 9].map(|weight| picks(&[("a:1", weight), ("b:1", weight)]));
        assert_eq!(ones, nines);
    }

    #[test]
    fn costs_fall_with_the_score() {
        let scores = [0, 1 << 20, 1 << 63, u64::MAX - (1 << 20), u64::MAX];
        let costs = scores.map(cost);
        assert!(costs.is_sorted_by(|a, b| a > b), "{costs:?}");
        assert!(costs.iter().all(|cost| cost.is_finite() && *cost > 0.0), "{costs:?}");
        assert!((cost(1 << 63) - 2_f64.ln()).abs() < 1e-12);
    }
}
