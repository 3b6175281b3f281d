//! Which processors are taken for a container: whole nodes, packages, caches and cores first, so that containers share as
//! little hardware as possible, and leftovers are filled up.

use std::collections::BTreeSet;

use super::cpus::CpuSet;
use super::machine::{Cpu, Machine};
use super::mask::combinations;

/// There are not so many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not enough cpus available to satisfy request: requested={requested}, available={available}")]
pub struct NotEnough {
    /// So many were asked for.
    pub requested: usize,
    /// So many are free.
    pub available: usize,
}

/// Takes as few nodes, packages, caches and cores as possible; `by_cache` keeps to few caches.
///
/// # Errors
/// There are not so many.
pub fn packed(machine: &Machine, available: &CpuSet, wanted: usize, by_cache: bool) -> Result<CpuSet, NotEnough> {
    if available.len() < wanted {
        return Err(NotEnough { requested: wanted, available: available.len() });
    }
    let mut taking = Taking { machine, free: available.clone(), taken: CpuSet::default(), wanted };
    let steps: &[fn(&mut Taking)] = match (machine.sockets() >= machine.numa_with_cpus().len(), by_cache) {
        (true, false) => &[whole_nodes, whole_sockets, whole_cores, rest],
        (true, true) => &[whole_nodes, whole_sockets, caches, whole_cores, rest],
        (false, false) => &[whole_sockets, whole_nodes, whole_cores, rest],
        (false, true) => &[whole_sockets, whole_nodes, caches, whole_cores, rest],
    };
    for step in steps {
        if taking.missing() > 0 {
            step(&mut taking);
        }
    }
    Ok(taking.taken)
}

struct Taking<'a> {
    machine: &'a Machine,
    free: CpuSet,
    taken: CpuSet,
    wanted: usize,
}

/// A part of the machine by number, as a processor knows it.
type Part = fn(&Cpu) -> u32;
const NODE: Part = |cpu| cpu.numa;
const SOCKET: Part = |cpu| cpu.socket;
const CACHE: Part = |cpu| cpu.cache;
const CORE: Part = |cpu| cpu.core;

impl Taking<'_> {
    fn missing(&self) -> usize {
        self.wanted - self.taken.len()
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.free = self.free.difference(cpus);
        self.taken = self.taken.union(cpus);
    }

    /// Free processors of one part.
    fn free_in(&self, part: Part, id: u32) -> CpuSet {
        self.free.iter().filter(|cpu| self.machine.cpus.get(cpu).is_some_and(|cpu| part(cpu) == id)).collect()
    }

    /// Parts that have free processors among these, those with the fewest first.
    fn sorted(&self, part: Part, among: &CpuSet) -> Vec<u32> {
        let ids: BTreeSet<u32> = among.iter().filter_map(|cpu| self.machine.cpus.get(&cpu)).map(part).collect();
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_by_cached_key(|id| (self.free_in(part, *id).len(), *id));
        ids
    }

    /// Parts in the order of the parts around them.
    fn within(&self, outer: Part, inner: Part) -> Vec<u32> {
        let outers = self.sorted(outer, &self.free);
        outers.into_iter().flat_map(|id| self.sorted(inner, &self.free_in(outer, id))).collect()
    }

    /// Nodes lie in packages, or packages in nodes.
    fn sockets_in_nodes(&self) -> bool {
        self.machine.sockets() >= self.machine.numa_with_cpus().len()
    }

    fn nodes(&self) -> Vec<u32> {
        if self.sockets_in_nodes() { self.sorted(NODE, &self.free) } else { self.within(SOCKET, NODE) }
    }

    fn sockets(&self) -> Vec<u32> {
        if self.sockets_in_nodes() { self.within(NODE, SOCKET) } else { self.sorted(SOCKET, &self.free) }
    }

    fn cores(&self) -> Vec<u32> {
        let (outer, ids) = if self.sockets_in_nodes() { (SOCKET, self.sockets()) } else { (NODE, self.nodes()) };
        ids.into_iter().flat_map(|id| self.sorted(CORE, &self.free_in(outer, id))).collect()
    }

    /// Takes parts of which all processors are free, as long as so many are missing.
    fn take_whole(&mut self, part: Part, ids: Vec<u32>) {
        for id in ids {
            let whole = self.machine.cpus_where(|cpu| part(cpu) == id);
            if self.free_in(part, id).len() == whole.len() && self.missing() >= whole.len() {
                self.take(&whole);
            }
        }
    }
}

fn whole_nodes(taking: &mut Taking) {
    taking.take_whole(NODE, taking.nodes());
}

fn whole_sockets(taking: &mut Taking) {
    taking.take_whole(SOCKET, taking.sockets());
}

fn whole_cores(taking: &mut Taking) {
    taking.take_whole(CORE, taking.cores());
}

fn rest(taking: &mut Taking) {
    let order: Vec<u32> = taking.cores().into_iter().flat_map(|core| taking.free_in(CORE, core).iter().collect::<Vec<_>>()).collect();
    let some: CpuSet = order.into_iter().take(taking.missing()).collect();
    taking.take(&some);
}

/// Whole caches while so many are missing, then one cache that has room for all that is left.
fn caches(taking: &mut Taking) {
    let order = taking.nodes().into_iter().flat_map(|node| taking.sorted(CACHE, &taking.free_in(NODE, node))).collect::<Vec<_>>();
    for cache in order {
        if taking.missing() >= taking.machine.per_cache() {
            let order = taking.nodes().into_iter().flat_map(|node| taking.sorted(CACHE, &taking.free_in(NODE, node))).collect();
            taking.take_whole(CACHE, order);
        }
        if taking.missing() > 0 {
            part_of_cache(taking, cache);
        }
        if taking.missing() == 0 {
            return;
        }
    }
}

fn part_of_cache(taking: &mut Taking, cache: u32) {
    let threads = taking.machine.threads();
    let cores = taking.missing().div_ceil(threads);
    let of_cache = taking.free_in(CACHE, cache);
    let ids: BTreeSet<u32> = of_cache.iter().filter_map(|cpu| taking.machine.cpus.get(&cpu)).map(|cpu| cpu.core).collect();
    let mut some: Vec<u32> = ids.into_iter().take(cores).flat_map(|core| taking.free_in(CORE, core).iter().collect::<Vec<_>>()).collect();
    some.sort_unstable();
    if taking.missing() % 2 != 0 && threads > 1 && some.len() > taking.missing() {
        some.pop();
    }
    if some.len() == taking.missing() {
        taking.take(&some.into_iter().collect());
    }
}

/// Spreads evenly over the fewest nodes that have enough, in groups of `group`; packs where that cannot be done.
///
/// # Errors
/// There are not so many.
pub fn spread(machine: &Machine, available: &CpuSet, wanted: usize, group: usize, by_cache: bool) -> Result<CpuSet, NotEnough> {
    let pack = || packed(machine, available, wanted, by_cache);
    if wanted == 0 || wanted % group != 0 || available.len() < wanted {
        return pack();
    }
    let taking = Taking { machine, free: available.clone(), taken: CpuSet::default(), wanted };
    let nodes = taking.nodes();
    let all_nodes = machine.numa_with_cpus().len().max(1);
    let groups = wanted.div_ceil(group);
    let per_node = machine.cpus.len().div_ceil(group).div_ceil(all_nodes).max(1);
    let (fewest, most) = (groups.div_ceil(per_node), groups.min(nodes.len()));
    for size in fewest..=most {
        let mut best: Option<Share> = None;
        for chosen in combinations(&nodes, size) {
            if best.as_ref().is_some_and(|best| best.imbalance == 0) {
                break;
            }
            let share = share(&taking, &nodes, &chosen, group);
            best = match (best, share) {
                (Some(best), Some(share)) if share.imbalance < best.imbalance => Some(share),
                (None, share) => share,
                (best, _) => best,
            };
        }
        if let Some(best) = best {
            return Ok(hand_out(taking, &best, group));
        }
    }
    pack()
}

/// How many are taken from which nodes.
struct Share {
    nodes: Vec<u32>,
    each: usize,
    /// Nodes that give a group more, in turns.
    extra: Vec<u32>,
    /// How unevenly processors stay free, in thousandths.
    imbalance: u64,
}

fn share(taking: &Taking, nodes: &[u32], chosen: &[u32], group: usize) -> Option<Share> {
    let free = |node: u32| taking.free_in(NODE, node).len();
    let groups: usize = chosen.iter().map(|node| free(*node) / group).sum();
    let each = taking.wanted / chosen.len() / group * group;
    if groups * group < taking.wanted || chosen.iter().any(|node| free(*node) < each) {
        return None;
    }
    let left: Vec<(u32, usize)> = nodes.iter().map(|node| (*node, free(*node) - if chosen.contains(node) { each } else { 0 })).collect();
    let remainder = taking.wanted - each * chosen.len();
    let share = |extra: Vec<u32>, left: &[(u32, usize)]| Share { nodes: chosen.to_vec(), each, extra, imbalance: deviation(left) };
    if remainder == 0 {
        return Some(share(Vec::new(), &left));
    }
    let able: Vec<u32> = left.iter().filter(|(node, free)| chosen.contains(node) && *free >= group).map(|(node, _)| *node).collect();
    let able: Vec<u32> = chosen.iter().filter(|node| able.contains(node)).copied().collect();
    let mut best: Option<Share> = None;
    for subset in (1..=able.len()).rev().flat_map(|size| combinations(&able, size)) {
        let room: usize = left.iter().filter(|(node, _)| subset.contains(node)).map(|(_, free)| free / group * group).sum();
        if room < remainder {
            continue;
        }
        let mut after = left.clone();
        let mut remainder = remainder;
        while remainder > 0 {
            for node in &subset {
                let place = after.iter_mut().find(|(id, free)| id == node && *free >= group);
                if let (Some((_, free)), true) = (place, remainder > 0) {
                    *free -= group;
                    remainder -= group;
                }
            }
        }
        let share = share(subset, &after);
        if best.as_ref().is_none_or(|best| share.imbalance < best.imbalance) {
            best = Some(share);
        }
    }
    best
}

/// Standard deviation in thousandths.
fn deviation(left: &[(u32, usize)]) -> u64 {
    let count = left.len().max(1) as f64;
    let mean = left.iter().map(|(_, free)| *free as f64).sum::<f64>() / count;
    let sum: f64 = left.iter().map(|(_, free)| (*free as f64 - mean).powi(2)).sum();
    (1000.0 * (sum / count).sqrt()).round() as u64
}

fn hand_out(mut taking: Taking, share: &Share, group: usize) -> CpuSet {
    let take = |taking: &mut Taking, node: u32, count: usize| {
        let free = taking.free_in(NODE, node);
        if free.len() >= count {
            let some = packed(taking.machine, &free, count, false).unwrap_or_default();
            taking.take(&some);
        }
    };
    for node in &share.nodes {
        take(&mut taking, *node, share.each);
    }
    while taking.missing() > 0 {
        for node in &share.extra {
            if taking.missing() > 0 {
                take(&mut taking, *node, group);
            }
        }
    }
    taking.taken
}

#[cfg(test)]
mod tests {
    use super::super::machine::shapes::{DUAL_EPYC, DUAL_XEON, ONE_NODE, SMALL_EPYC, Shape};
    use super::*;

    fn check(shape: Shape, gone: &str, wanted: usize, by_cache: bool, taken: &str) {
        let machine = shape.machine();
        let free = machine.all().difference(&gone.parse().unwrap());
        let found = packed(&machine, &free, wanted, by_cache).map(|cpus| cpus.to_string());
        assert_eq!(found.as_deref().unwrap_or("none"), taken, "{wanted} without {gone} of {shape:?}");
    }

    #[test]
    fn whole_parts_come_first() {
        check(DUAL_XEON, "", 1, false, "0");
        check(DUAL_XEON, "", 2, false, "0,12");
        check(DUAL_XEON, "0", 1, false, "12");
        check(DUAL_XEON, "0", 2, false, "1,13");
        check(DUAL_XEON, "0", 3, false, "1,12-13");
        check(DUAL_XEON, "0", 12, false, "6-11,18-23");
        check(DUAL_XEON, "0", 23, false, "1-23");
        check(DUAL_XEON, "0", 24, false, "none");
        check(DUAL_XEON, "", 13, false, "0-6,12-17");
        check(DUAL_EPYC, "", 32, false, "0-15,128-143");
        check(DUAL_EPYC, "", 128, false, "0-63,128-191");
        check(ONE_NODE, "0", 36, false, "18-35,90-107");
    }

    #[test]
    fn few_caches_are_touched() {
        check(SMALL_EPYC, "0", 4, false, "1-4");
        check(SMALL_EPYC, "0", 4, true, "4-7");
        check(SMALL_EPYC, "0", 3, true, "1-3");
        check(SMALL_EPYC, "0", 6, true, "1-2,4-7");
        check(SMALL_EPYC, "0,4,8,12", 4, true, "1-3,5");
        check(DUAL_EPYC, "", 16, true, "0-7,128-135");
        check(DUAL_EPYC, "0,128", 3, true, "1-2,129");
    }

    #[test]
    fn nodes_are_loaded_evenly() {
        let spread_over = |shape: Shape, gone: &str, wanted: usize, group: usize| {
            let machine = shape.machine();
            let free = machine.all().difference(&gone.parse().unwrap());
            let taken = spread(&machine, &free, wanted, group, false).unwrap();
            assert_eq!(taken.len(), wanted);
            let count = |node: u32| taken.iter().filter(|cpu| machine.cpus[cpu].numa == node).count();
            machine.node_ids().into_iter().map(count).collect::<Vec<_>>()
        };
        assert_eq!(spread_over(DUAL_XEON, "", 8, 1), [8, 0], "one node is enough");
        assert_eq!(spread_over(DUAL_XEON, "", 14, 1), [7, 7]);
        assert_eq!(spread_over(DUAL_XEON, "", 14, 2), [8, 6]);
        assert_eq!(spread_over(DUAL_XEON, "0,12", 15, 2), [3, 12], "no group fits, so that they are packed");
        assert_eq!(spread_over(DUAL_EPYC, "", 96, 2), [32, 32, 32, 0, 0, 0, 0, 0]);
        assert_eq!(spread_over(DUAL_EPYC, "", 40, 2), [20, 20, 0, 0, 0, 0, 0, 0]);
    }
}
