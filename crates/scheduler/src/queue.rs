//! Pods that wait for a decision.
//!
//! `active` pods are due, by priority, then by age. `resting` pods were refused, something happened that may help
//! them, and their back-off is not over; they go on early when nothing else is due. `parked` pods were refused and
//! wait for something to happen. Nothing here wakes up without a reason.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::cluster::PodIndex;
use crate::plugin::Happenings;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// Order of decisions: higher priority first, then who came first.
type Rank = (Reverse<i32>, u64);

#[derive(Clone, Copy)]
enum Where {
    Active,
    /// Until this time; `early` if it may go on as soon as nothing else is due.
    Resting {
        until: Instant,
        early: bool,
    },
    /// Until one of these happens.
    Parked(Happenings),
    /// Being decided about or bound.
    Out,
}

struct Waiting {
    rank: Rank,
    attempts: u32,
    tried: Instant,
    place: Where,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<PodIndex, Waiting>,
    active: BTreeSet<(Rank, PodIndex)>,
    resting: BTreeSet<(Instant, PodIndex)>,
    /// Parked pods by what they wait for; there are few different sets of happenings.
    parked: HashMap<Happenings, HashSet<PodIndex>>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or makes one due that changed.
    pub fn add(&mut self, pod: PodIndex, priority: i32, now: Instant) {
        self.sequence += 1;
        let rank = self.pods.get(&pod).map_or((Reverse(priority), self.sequence), |known| (Reverse(priority), known.rank.1));
        let attempts = self.pods.get(&pod).map_or(0, |known| known.attempts);
        self.leave(pod);
        self.pods.insert(pod, Waiting { rank, attempts, tried: now, place: Where::Active });
        self.active.insert((rank, pod));
    }

    /// Forgets a pod.
    pub fn remove(&mut self, pod: PodIndex) {
        self.leave(pod);
        self.pods.remove(&pod);
    }

    /// Whether a pod is known.
    pub fn contains(&self, pod: PodIndex) -> bool {
        self.pods.contains_key(&pod)
    }

    fn leave(&mut self, pod: PodIndex) {
        let Some(waiting) = self.pods.get_mut(&pod) else {
            return;
        };
        match waiting.place {
            Where::Active => drop(self.active.remove(&(waiting.rank, pod))),
            Where::Resting { until, .. } => drop(self.resting.remove(&(until, pod))),
            Where::Parked(until) => {
                if let Some(pods) = self.parked.get_mut(&until) {
                    pods.remove(&pod);
                }
            }
            Where::Out => {}
        }
        waiting.place = Where::Out;
    }

    /// The next pod to decide about. Its attempt counts.
    pub fn next(&mut self, now: Instant) -> Option<PodIndex> {
        while let Some((until, pod)) = self.resting.first().copied().filter(|(until, _)| *until <= now) {
            self.resting.remove(&(until, pod));
            self.activate(pod);
        }
        if self.active.is_empty() {
            let early = self.resting.iter().find(|(_, pod)| matches!(self.pods[pod].place, Where::Resting { early: true, .. }));
            if let Some((until, pod)) = early.copied() {
                self.resting.remove(&(until, pod));
                self.activate(pod);
            }
        }
        let (_, pod) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&pod).expect("active pods are known");
        waiting.place = Where::Out;
        waiting.attempts += 1;
        waiting.tried = now;
        Some(pod)
    }

    fn activate(&mut self, pod: PodIndex) {
        let waiting = self.pods.get_mut(&pod).expect("resting pods are known");
        waiting.place = Where::Active;
        self.active.insert((waiting.rank, pod));
    }

    /// When the first back-off ends, if a pod waits for that alone.
    pub fn wake_at(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Parks a refused pod until one of these happens.
    pub fn park(&mut self, pod: PodIndex, until: Happenings) {
        if let Some(waiting) = self.pods.get_mut(&pod) {
            waiting.place = Where::Parked(until);
            self.parked.entry(until).or_default().insert(pod);
        }
    }

    /// Lets a pod rest whose binding failed; it goes on by itself.
    pub fn retry(&mut self, pod: PodIndex) {
        self.leave(pod);
        self.rest(pod, false);
    }

    fn rest(&mut self, pod: PodIndex, early: bool) {
        if let Some(waiting) = self.pods.get_mut(&pod) {
            let backoff = (FIRST_BACKOFF * 2u32.saturating_pow(waiting.attempts.saturating_sub(1).min(10))).min(LAST_BACKOFF);
            let until = waiting.tried + backoff;
            waiting.place = Where::Resting { until, early };
            self.resting.insert((until, pod));
        }
    }

    /// Something happened: pods that it may help go on when their back-off is over.
    pub fn happened(&mut self, what: Happenings) {
        let sets = self.parked.iter_mut().filter(|(until, _)| until.meets(what));
        let woken: Vec<PodIndex> = sets.flat_map(|(_, pods)| pods.drain()).collect();
        woken.iter().for_each(|pod| self.rest(*pod, true));
    }

    /// Pods that wait, by place: active, resting, parked.
    pub fn depth(&self) -> [usize; 3] {
        [self.active.len(), self.resting.len(), self.parked.values().map(HashSet::len).sum()]
    }
}
