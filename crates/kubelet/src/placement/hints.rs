//! On which NUMA nodes a container or pod may find what it asks for, and on which of them it is put in the end.
//!
//! Each kind of resource gives hints: sets of nodes that hold enough of it, the smallest ones preferred. The policy picks the
//! nodes that suit all kinds best, and says whether that is good enough to let the pod in.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::machine::Machine;
use super::mask::Mask;

/// Nodes that hold enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The nodes; none where it does not matter.
    pub nodes: Option<Mask>,
    /// No fewer nodes could ever hold enough.
    pub preferred: bool,
}

/// Hints of one kind of resource: none where nodes do not matter, empty where nothing is possible.
pub type Hints = Option<Vec<Hint>>;

/// How strictly resources have to come from the same nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Not at all.
    #[default]
    None,
    /// As far as possible.
    BestEffort,
    /// From the fewest nodes possible, or the pod is refused.
    Restricted,
    /// From one node, or the pod is refused.
    SingleNumaNode,
}

/// For what nodes are picked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Each container on its own.
    #[default]
    Container,
    /// All containers of a pod.
    Pod,
}

/// How nodes are picked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// How strictly.
    pub policy: Policy,
    /// For what.
    pub scope: Scope,
    /// Of equally many nodes those nearest to each other.
    pub closest: bool,
    /// On machines with more nodes nothing is picked and the kubelet does not start.
    pub most_nodes: usize,
}

/// Most nodes of a machine unless the administrator says otherwise: every combination of nodes is tried.
pub const MOST_NODES: usize = 8;

/// The nodes that suit all kinds best, and whether the policy takes them.
pub fn pick(rules: &Rules, machine: &Machine, providers: &[BTreeMap<String, Hints>]) -> (Hint, bool) {
    let all = Mask::of(machine.node_ids());
    if rules.policy == Policy::None {
        return (Hint { nodes: None, preferred: false }, true);
    }
    let mut kinds = flat(providers);
    if rules.policy == Policy::SingleNumaNode {
        let single = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1);
        kinds.iter_mut().for_each(|hints| hints.retain(single));
    }
    let mut best = merge(rules, machine, all, &kinds);
    if rules.policy == Policy::SingleNumaNode && best.nodes == Some(all) {
        best.nodes = None;
    }
    (best, rules.policy == Policy::BestEffort || best.preferred)
}

/// One list of hints for each kind of resource.
fn flat(providers: &[BTreeMap<String, Hints>]) -> Vec<Vec<Hint>> {
    let any = |preferred| vec![Hint { nodes: None, preferred }];
    let mut kinds = Vec::new();
    for provider in providers {
        if provider.is_empty() {
            kinds.push(any(true));
        }
        for hints in provider.values() {
            kinds.push(match hints {
                None => any(true),
                Some(hints) if hints.is_empty() => any(false),
                Some(hints) => hints.clone(),
            });
        }
    }
    kinds
}

fn merge(rules: &Rules, machine: &Machine, all: Mask, kinds: &[Vec<Hint>]) -> Hint {
    // What the kind that needs the most nodes would take at least.
    let fewest = kinds.iter().filter_map(|hints| hints.iter().filter_map(|hint| hint.nodes).map(Mask::count).min());
    let count = fewest.max().unwrap_or(0);
    let mut best: Option<Hint> = None;
    each_choice(kinds, &mut Vec::new(), &mut |choice| {
        let candidate = together(all, choice);
        if candidate.nodes.is_some_and(|nodes| nodes.count() > 0)
            && best.is_none_or(|best| is_better(rules, machine, candidate, best, count))
        {
            best = Some(candidate);
        }
    });
    best.unwrap_or(Hint { nodes: Some(all), preferred: false })
}

/// Calls with one hint of every kind, in every combination.
fn each_choice(kinds: &[Vec<Hint>], chosen: &mut Vec<Hint>, found: &mut impl FnMut(&[Hint])) {
    let Some((first, rest)) = kinds.split_first() else {
        return found(chosen);
    };
    for hint in first {
        chosen.push(*hint);
        each_choice(rest, chosen, found);
        chosen.pop();
    }
}

/// The nodes that all hints share; preferred only if all are, and name the same nodes.
fn together(all: Mask, choice: &[Hint]) -> Hint {
    let mut masks = choice.iter().filter_map(|hint| hint.nodes);
    let first = masks.clone().next();
    let same = masks.all(|mask| Some(mask) == first);
    let nodes = choice.iter().filter_map(|hint| hint.nodes).fold(all, Mask::and);
    Hint { nodes: Some(nodes), preferred: same && choice.iter().all(|hint| hint.preferred) }
}

/// Preferred hints before others and fewer nodes before more; where none is preferred, as many nodes as the neediest kind has to
/// have, since fewer would leave it without.
fn is_better(rules: &Rules, machine: &Machine, candidate: Hint, best: Hint, count: usize) -> bool {
    let (new, old) = (candidate.nodes.unwrap_or_default(), best.nodes.unwrap_or_default());
    let fitter = is_fitter(rules, machine, new, old);
    if candidate.preferred || best.preferred {
        return if candidate.preferred == best.preferred { fitter } else { candidate.preferred };
    }
    match old.count().cmp(&count) {
        Ordering::Greater => fitter,
        Ordering::Equal => new.count() == count && fitter,
        Ordering::Less if new.count() > count => false,
        Ordering::Less if new.count() == old.count() => fitter,
        Ordering::Less => new.count() > old.count(),
    }
}

fn is_fitter(rules: &Rules, machine: &Machine, new: Mask, old: Mask) -> bool {
    if rules.closest && new.count() == old.count() && new != old {
        let (near, far) = (distance(machine, new), distance(machine, old));
        if near != far {
            return near < far;
        }
    }
    new.narrowness(old) == Ordering::Less
}

/// Sum of the distances between all pairs of nodes; those of equally many nodes can be compared.
fn distance(machine: &Machine, nodes: Mask) -> u32 {
    let ids = machine.node_ids();
    let between = |from: u32, to: u32| {
        let place = ids.iter().position(|id| *id == to)?;
        machine.nodes.get(&from)?.distances.get(place).copied()
    };
    let nodes = nodes.nodes();
    nodes.iter().flat_map(|from| nodes.iter().filter_map(|to| between(*from, *to))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::machine::shapes::{DUAL_EPYC, DUAL_XEON};
    use super::*;

    fn hint(nodes: &[u32], preferred: bool) -> Hint {
        Hint { nodes: Some(Mask::of(nodes.iter().copied())), preferred }
    }

    fn check(policy: Policy, kinds: &[Hints], wanted: (Option<&[u32]>, bool, bool)) {
        let rules = Rules { policy, ..Rules::default() };
        let providers: Vec<_> = kinds.iter().map(|hints| BTreeMap::from([("r".to_owned(), hints.clone())])).collect();
        let (best, admitted) = pick(&rules, &DUAL_XEON.machine(), &providers);
        let (nodes, preferred, admits) = wanted;
        assert_eq!((best.nodes.map(Mask::nodes).as_deref(), best.preferred, admitted), (nodes, preferred, admits), "{policy:?} {kinds:?}");
    }

    #[test]
    fn hints_are_merged() {
        use Policy::{BestEffort, Restricted, SingleNumaNode};
        let either = Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]);
        let second = Some(vec![hint(&[1], true), hint(&[0, 1], false)]);
        let first = Some(vec![hint(&[0], true), hint(&[0, 1], false)]);
        let both = Some(vec![hint(&[0, 1], true)]);
        for policy in [BestEffort, Restricted, SingleNumaNode] {
            check(policy, &[either.clone(), second.clone()], (Some(&[1]), true, true));
            check(policy, &[either.clone(), None], (Some(&[0]), true, true));
        }
        check(Policy::None, &[either.clone()], (None, false, true));
        check(BestEffort, &[], (Some(&[0, 1]), true, true));
        check(SingleNumaNode, &[], (None, true, true));
        // Nodes that contradict each other: something small is taken, and only the mild policy takes it.
        check(BestEffort, &[first.clone(), second.clone()], (Some(&[0]), false, true));
        check(Restricted, &[first.clone(), second.clone()], (Some(&[0]), false, false));
        check(SingleNumaNode, &[first, second], (None, false, false));
        // What needs two nodes anyway.
        check(BestEffort, &[both.clone()], (Some(&[0, 1]), true, true));
        check(Restricted, &[both.clone()], (Some(&[0, 1]), true, true));
        check(SingleNumaNode, &[both.clone()], (None, false, false));
        check(Restricted, &[both, either.clone()], (Some(&[0, 1]), false, false));
        // What is nowhere.
        check(BestEffort, &[Some(Vec::new()), either.clone()], (Some(&[0]), false, true));
        check(Restricted, &[Some(Vec::new()), either], (Some(&[0]), false, false));
    }

    #[test]
    fn near_nodes_are_taken_where_asked() {
        let machine = DUAL_EPYC.machine();
        let hints = Some(vec![hint(&[0, 4], true), hint(&[1, 2], true)]);
        let provider = [BTreeMap::from([("r".to_owned(), hints)])];
        let rules = Rules { policy: Policy::BestEffort, closest: true, ..Rules::default() };
        assert_eq!(pick(&rules, &machine, &provider).0.nodes, Some(Mask::of([1, 2])));
        let far = Rules { closest: false, ..rules };
        assert_eq!(pick(&far, &machine, &provider).0.nodes, Some(Mask::of([1, 2])));
    }
}
