//! Sets of NUMA nodes, small enough to try every combination.

use std::cmp::Ordering;

/// NUMA nodes by number, up to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask(u64);

impl Mask {
    /// Of these nodes; numbers beyond 63 do not occur.
    pub fn of(nodes: impl IntoIterator<Item = u32>) -> Mask {
        Mask(nodes.into_iter().filter(|node| *node < 64).fold(0, |bits, node| bits | 1 << node))
    }

    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether a node is in it.
    pub fn has(self, node: u32) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }

    /// Whether one of these is in it.
    pub fn has_any(self, nodes: &[u32]) -> bool {
        nodes.iter().any(|node| self.has(*node))
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Whether the other has all of it.
    pub fn is_subset(self, other: Mask) -> bool {
        self.0 & other.0 == self.0
    }

    /// Its nodes in order.
    pub fn nodes(self) -> Vec<u32> {
        (0..64).filter(|node| self.has(*node)).collect()
    }

    /// Fewer nodes come first, then lower numbers.
    pub fn narrowness(self, other: Mask) -> Ordering {
        self.count().cmp(&other.count()).then(self.0.cmp(&other.0))
    }

    /// Every combination of at least one of these nodes, smaller ones first and lower numbers first.
    pub fn combinations(nodes: &[u32]) -> Vec<Mask> {
        (1..=nodes.len()).flat_map(|size| combinations(nodes, size)).map(Mask::of).collect()
    }
}

/// Every choice of `size` of these, in the order of their places.
pub fn combinations(of: &[u32], size: usize) -> Vec<Vec<u32>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, first) in of.iter().enumerate() {
        for rest in combinations(&of[place + 1..], size - 1) {
            all.push([&[*first], rest.as_slice()].concat());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_come_by_size_and_place() {
        let shown: Vec<Vec<u32>> = Mask::combinations(&[0, 1, 3]).into_iter().map(Mask::nodes).collect();
        assert_eq!(shown, [vec![0], vec![1], vec![3], vec![0, 1], vec![0, 3], vec![1, 3], vec![0, 1, 3]]);
        assert_eq!(Mask::of([0, 3]).narrowness(Mask::of([1])), Ordering::Greater);
        assert_eq!(Mask::of([0, 1]).narrowness(Mask::of([0, 2])), Ordering::Less);
    }
}
