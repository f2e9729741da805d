//! Consistent hashing: the nodes are points on a ring, and a key belongs to the point next to its
//! hash.
use super::RoutedNode;
use super::hash::KeyHash;

/// The points of all nodes, sorted.
#[derive(Debug)]
pub struct Ring<P> {
    /// Apart from the positions, because a search reads only points.
    points: Vec<P>,
    /// The position in the list of nodes of each point.
    positions: Vec<u32>,
}

impl Ring<u32> {
    /// From points with their nodes' positions, in any order. Equal points keep the order of their
    /// nodes.
    pub fn new(points: impl IntoIterator<Item = (u32, u32)>) -> Self {
        // One number sorts in half the time of a pair.
        let points = points.into_iter();
        let mut all: Vec<_> = points.map(|(it, at)| u64::from(it) << 32 | u64::from(at)).collect();
        all.sort_unstable();
        let points = all.iter().map(|both| (both >> 32) as u32).collect();
        #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
        let positions = all.iter().map(|both| *both as u32).collect();
        Self { points, positions }
    }
}

impl Ring<u128> {
    /// See [`Ring::<u32>::new`].
    pub fn new(points: impl IntoIterator<Item = (u128, u32)>) -> Self {
        let mut all: Vec<_> = points.into_iter().collect();
        all.sort_unstable();
        let (points, positions) = all.into_iter().unzip();
        Self { points, positions }
    }
}

impl<P: Copy + Ord> Ring<P> {
    /// Equal points belong to the last of their nodes.
    fn last_of_equals(mut self) -> Self {
        for at in (1..self.points.len()).rev() {
            if self.points[at - 1] == self.points[at] {
                self.positions[at - 1] = self.positions[at];
            }
        }
        self
    }

    /// The first point that is not less than the hash; after the last point, the first one.
    pub fn at_or_after(&self, hash: P) -> Option<usize> {
        self.position(self.points.partition_point(|point| *point < hash))
    }

    /// The first point that is greater than the hash; after the last point, the first one.
    pub fn after(&self, hash: P) -> Option<usize> {
        self.position(self.points.partition_point(|point| *point <= hash))
    }

    /// The last point that is not greater than the hash; before the first point, the last one.
    pub fn at_or_before(&self, hash: P) -> Option<usize> {
        let next = self.points.partition_point(|point| *point <= hash);
        self.position(next.checked_sub(1).or(self.points.len().checked_sub(1))?)
    }

    fn position(&self, at: usize) -> Option<usize> {
        self.positions.get(at).or(self.positions.first()).map(|position| *position as usize)
    }
}

/// A ring of 32-bit points.
#[derive(Debug)]
pub struct RingRouter {
    ring: Ring<u32>,
    hash: KeyHash,
    /// Whether a key belongs to the point before its hash, and not to the point after it.
    is_before: bool,
    only: Option<usize>,
}

impl RingRouter {
    /// Keys belong to the first point that is not less than their hash. `points` are those of a
    /// node.
    pub fn new<I: IntoIterator<Item = u32>>(
        nodes: &[RoutedNode],
        hash: KeyHash,
        points: impl Fn(&RoutedNode) -> I,
    ) -> Self {
        Self::from_points(nodes, hash, |several, all| {
            for (position, node) in (0..).zip(several) {
                all.extend(points(node).into_iter().map(|point| (point, position)));
            }
        })
    }

    /// As [`Self::new`]. `add_points` adds the points of all nodes with their positions.
    pub fn from_points(
        nodes: &[RoutedNode],
        hash: KeyHash,
        add_points: impl FnOnce(&[RoutedNode], &mut Vec<(u32, u32)>),
    ) -> Self {
        let (only, mut all) = ((nodes.len() == 1).then_some(0), Vec::new());
        // A single node needs no points.
        if only.is_none() {
            add_points(nodes, &mut all);
        }
        Self { ring: Ring::<u32>::new(all), hash, is_before: false, only }
    }

    /// Keys belong to the last point that is not greater than their hash.
    pub fn before(self) -> Self {
        Self { is_before: true, ..self }
    }

    /// Of nodes with an equal point, the last one gets its keys.
    pub fn last_of_equals(self) -> Self {
        Self { ring: self.ring.last_of_equals(), ..self }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.only.is_some() {
            return self.only;
        }
        let hash = self.hash.hash(key);
        if self.is_before { self.ring.at_or_before(hash) } else { self.ring.at_or_after(hash) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_next_point() {
        let ring = Ring::<u32>::new([(30, 0), (10, 0), (20, 1)]);
        let found = |find: fn(&Ring<u32>, u32) -> Option<usize>| {
            [9, 10, 11, 20, 21, 30, 31].map(|hash| find(&ring, hash).unwrap())
        };
        assert_eq!(found(Ring::at_or_after), [0, 0, 1, 1, 0, 0, 0]);
        assert_eq!(found(Ring::after), [0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(found(Ring::at_or_before), [0, 0, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn of_equal_points_that_of_the_first_node_comes_first() {
        let ring = Ring::<u32>::new([(7, 1), (7, 0)]);
        assert_eq!(ring.at_or_after(5), Some(0));
        assert_eq!(ring.at_or_before(9), Some(1));
    }

    #[test]
    fn equal_points_of_the_last_node() {
        let ring = Ring::<u32>::new([(7, 0), (9, 0), (7, 1), (7, 2), (8, 2)]).last_of_equals();
        assert_eq!([6, 7, 8, 9].map(|hash| ring.at_or_after(hash)), [2, 2, 2, 0].map(Some));
        assert_eq!(ring.at_or_before(7), Some(2));
    }

    #[test]
    fn an_empty_ring_has_no_nodes() {
        let ring = Ring::<u32>::new([]);
        assert_eq!(ring.at_or_after(1).or(ring.after(1)).or(ring.at_or_before(1)), None);
    }
}
