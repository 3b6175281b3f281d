//! Answers of filters: a node fits, or it does not for reasons that people can read.

use std::fmt::Write;

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::resources::Resource;

/// Why a node is refused. The texts are the API's: tools parse them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Too little of a resource is left.
    Insufficient(Resource),
    /// A constant text, declared beside the filter that gives it.
    Text(&'static str),
}

impl Reason {
    fn text(self, cluster: &Cluster) -> String {
        match self {
            Reason::Insufficient(Resource::PODS) => "Too many pods".into(),
            Reason::Insufficient(resource) => format!("Insufficient {}", cluster.resources.name(resource)),
            Reason::Text(text) => text.into(),
        }
    }
}

/// The answer of a filter about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may run there.
    Fits,
    /// It may not, but could if other pods went.
    Refused(SmallVec<[Reason; 1]>),
    /// It may not, whoever goes.
    Hopeless(SmallVec<[Reason; 1]>),
}

impl Verdict {
    /// Refused for one reason that others may lift by going.
    pub fn refused(text: &'static str) -> Verdict {
        Verdict::Refused(SmallVec::from_slice(&[Reason::Text(text)]))
    }

    /// Refused for one reason that only a change of the node or the pod lifts.
    pub fn hopeless(text: &'static str) -> Verdict {
        Verdict::Hopeless(SmallVec::from_slice(&[Reason::Text(text)]))
    }

    /// `Fits` if the condition holds, else hopeless.
    pub fn fits_or_hopeless(fits: bool, text: &'static str) -> Verdict {
        if fits { Verdict::Fits } else { Verdict::hopeless(text) }
    }
}

/// Counts of reasons, for the message about a pod that fits nowhere.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    counts: Vec<(Reason, u32)>,
}

impl Tally {
    /// Counts a reason.
    pub fn add(&mut self, reason: Reason) {
        match self.counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((reason, 1)),
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 ...`, with the reasons sorted as text.
    pub fn message(&self, cluster: &Cluster, nodes: usize) -> String {
        let mut parts: Vec<String> = self.counts.iter().map(|(reason, count)| format!("{count} {}", reason.text(cluster))).collect();
        parts.sort();
        let mut message = format!("0/{nodes} nodes are available:");
        if !parts.is_empty() {
            let _ = write!(message, " {}.", parts.join(", "));
        }
        message
    }
}
