//! One decision: which node a pod gets, or why none.

use smallvec::SmallVec;

use crate::cluster::{Cluster, PodIndex};
use crate::nodes::NodeIndex;
use crate::plugin::{Filter, Filtering, Plugin};
use crate::plugins;
use crate::shape::Shape;
use crate::verdict::{Reason, Tally, Verdict};

/// The outcome for a pod.
#[derive(Debug)]
pub enum Decision {
    /// It gets this node.
    Place(NodeIndex),
    /// It fits nowhere.
    Nowhere(Refusal),
}

/// Why a pod fits nowhere.
#[derive(Debug, Default)]
pub struct Refusal {
    /// What people read.
    pub message: String,
    /// Plugins that refused, as bits of their place in the list.
    pub plugins: u32,
    /// Nodes that could take the pod if others went.
    pub curable: Vec<NodeIndex>,
    /// Number of nodes.
    pub nodes: usize,
}

/// Makes decisions, one after another.
pub struct Decider {
    plugins: Vec<Plugin>,
    /// Where the next search begins, so that all nodes get their share when not all are asked.
    start: usize,
    random: u64,
}

/// A filter with the place of its plugin in the list.
struct Asked<'a> {
    plugin: usize,
    filter: Filter<'a>,
}

impl Default for Decider {
    fn default() -> Decider {
        let mut plugins = plugins::all();
        plugins.sort_by_key(|plugin| plugin.turn);
        Decider { plugins, start: 0, random: rand::random::<u64>() | 1 }
    }
}

impl Decider {
    /// The plugins in the order in which they ask.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// Decides about a pod.
    pub fn decide(&mut self, cluster: &mut Cluster, pod: PodIndex) -> Decision {
        let shape = cluster.pod(pod).shape.clone();
        let nodes = cluster.nodes.alive().len();
        if nodes == 0 {
            return Decision::Nowhere(Refusal { message: "no nodes available to schedule pods".into(), ..Refusal::default() });
        }
        let nominated = cluster.pod(pod).nominated.as_ref().and_then(|name| cluster.nodes.find(name));
        if let Some(node) = nominated.filter(|node| self.fits(cluster, pod, &shape, *node).is_ok()) {
            return Decision::Place(node);
        }
        let (mut feasible, mut refusal, mut tally) = match self.search(cluster, &shape) {
            Ok(found) => found,
            Err(refusal) => return Decision::Nowhere(refusal),
        };
        self.respect_nominated(cluster, pod, &shape, &mut feasible, &mut refusal, &mut tally);
        match feasible.as_slice() {
            [] => {
                refusal.message = tally.message(cluster, nodes);
                Decision::Nowhere(refusal)
            }
            [node] => Decision::Place(*node),
            _ => Decision::Place(self.best(cluster, &shape, &feasible)),
        }
    }

    /// Whether a node fits, also beside the pods for which it is being cleared; if not, the first refusal.
    pub(crate) fn fits(&self, cluster: &mut Cluster, pod: PodIndex, shape: &Shape, node: NodeIndex) -> Result<(), Verdict> {
        let answer = self.ask(cluster, shape, node).and_then(|()| self.fits_beside_nominated(cluster, pod, shape, node));
        answer.map_err(|(_, verdict)| verdict)
    }

    /// Asks all filters about one node.
    pub(crate) fn ask(&self, cluster: &Cluster, shape: &Shape, node: NodeIndex) -> Result<(), (usize, Verdict)> {
        for (number, plugin) in self.plugins.iter().enumerate() {
            let verdict = match plugin.filter.map(|prepare| prepare(cluster, shape)) {
                None | Some(Filtering::Skip) => continue,
                Some(Filtering::Nowhere(_)) => Verdict::Hopeless(SmallVec::new()),
                Some(Filtering::Ask(filter)) => filter(node),
            };
            if verdict != Verdict::Fits {
                return Err((number, verdict));
            }
        }
        Ok(())
    }

    /// Nodes that fit, enough to choose among; with none, every node's reason.
    fn search(&mut self, cluster: &Cluster, shape: &Shape) -> Result<(Vec<NodeIndex>, Refusal, Tally), Refusal> {
        let alive = cluster.nodes.alive();
        let mut refusal = Refusal { nodes: alive.len(), ..Refusal::default() };
        let mut asked: SmallVec<[Asked<'_>; 12]> = SmallVec::new();
        for (number, plugin) in self.plugins.iter().enumerate() {
            match plugin.filter.map(|prepare| prepare(cluster, shape)) {
                None | Some(Filtering::Skip) => {}
                Some(Filtering::Ask(filter)) => asked.push(Asked { plugin: number, filter }),
                Some(Filtering::Nowhere(why)) => {
                    refusal.plugins = 1 << number;
                    refusal.message = format!("0/{} nodes are available: {why}.", alive.len());
                    return Err(refusal);
                }
            }
        }
        let enough = enough(alive.len());
        let (mut feasible, mut tally) = (Vec::with_capacity(enough), Tally::default());
        let start = self.start % alive.len();
        let mut looked = 0;
        for node in alive[start..].iter().chain(&alive[..start]) {
            looked += 1;
            let refused = asked.iter().find_map(|asked| match (asked.filter)(*node) {
                Verdict::Fits => None,
                verdict => Some((asked.plugin, verdict)),
            });
            match refused {
                None => feasible.push(*node),
                Some((plugin, verdict)) => note(&mut refusal, &mut tally, *node, plugin, &verdict),
            }
            if feasible.len() >= enough {
                break;
            }
        }
        self.start = (start + looked) % alive.len();
        Ok((feasible, refusal, tally))
    }

    /// Takes out nodes that are being cleared for pods of the same or a higher priority and have no room for both.
    fn respect_nominated(
        &self,
        cluster: &mut Cluster,
        pod: PodIndex,
        shape: &Shape,
        feasible: &mut Vec<NodeIndex>,
        refusal: &mut Refusal,
        tally: &mut Tally,
    ) {
        if cluster.nominated().is_empty() {
            return;
        }
        feasible.retain(|node| match self.fits_beside_nominated(cluster, pod, shape, *node) {
            Ok(()) => true,
            Err((plugin, verdict)) => {
                note(refusal, tally, *node, plugin, &verdict);
                false
            }
        });
    }

    fn fits_beside_nominated(&self, cluster: &mut Cluster, pod: PodIndex, shape: &Shape, node: NodeIndex) -> Result<(), (usize, Verdict)> {
        let name = cluster.nodes.name(node).clone();
        let guest = |other: &&PodIndex| {
            let guest = cluster.pod(**other);
            **other != pod
                && guest.placed.is_none()
                && guest.shape.priority() >= shape.priority()
                && guest.nominated.as_ref() == Some(&name)
        };
        let guests: Vec<PodIndex> = cluster.nominated().iter().filter(guest).copied().collect();
        if guests.is_empty() {
            return Ok(());
        }
        guests.iter().for_each(|guest| cluster.place(*guest, node));
        let answer = self.ask(cluster, shape, node);
        for guest in &guests {
            cluster.displace(*guest);
        }
        answer
    }

    /// The node with the highest sum of scores; equals are drawn by lot.
    fn best(&mut self, cluster: &Cluster, shape: &Shape, feasible: &[NodeIndex]) -> NodeIndex {
        let mut sums = vec![0i64; feasible.len()];
        let mut scores = vec![0i64; feasible.len()];
        for score in self.plugins.iter().filter_map(|plugin| plugin.score.as_ref()) {
            scores.fill(0);
            if (score.of)(cluster, shape, feasible, &mut scores) {
                sums.iter_mut().zip(&scores).for_each(|(sum, one)| *sum += one * score.weight);
            }
        }
        let best = sums.iter().copied().max().unwrap_or(0);
        let equals = sums.iter().filter(|sum| **sum == best).count() as u64;
        let lot = self.draw() % equals.max(1);
        let mut winners = feasible.iter().zip(&sums).filter(|(_, sum)| **sum == best).map(|(node, _)| *node);
        winners.nth(lot as usize).expect("one of the best is the best")
    }

    /// Xorshift; a lot needs no better randomness.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn note(refusal: &mut Refusal, tally: &mut Tally, node: NodeIndex, plugin: usize, verdict: &Verdict) {
    refusal.plugins |= 1 << plugin;
    let reasons: &[Reason] = match verdict {
        Verdict::Fits => &[],
        Verdict::Refused(reasons) => {
            refusal.curable.push(node);
            reasons
        }
        Verdict::Hopeless(reasons) => reasons,
    };
    reasons.iter().for_each(|reason| tally.add(*reason));
}

/// How many nodes that fit are enough to choose among: all of a small cluster, a share of a large one.
fn enough(nodes: usize) -> usize {
    if nodes < 100 {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(100)
}
