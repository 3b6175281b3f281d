//! The queues of a priority level: which one a request waits in, and whose turn it is.
//!
//! Each flow is dealt a hand of queues by its hash and a request takes the least loaded of them, so that one heavy flow
//! fills few queues and a light one most likely has a queue without it (shuffle sharding). Queues take turns by virtual
//! time: each dispatch moves its queue on by the work that the request is thought to be, the end of the request by the
//! work that it was, and the queue that is least far comes next.

use std::collections::VecDeque;

/// How long a request is thought to run before it has run, in seconds.
const ESTIMATE: f64 = 0.003;

/// What a request in a queue is known by.
pub trait Waits {
    /// Seats that it needs.
    fn seats(&self) -> u32;
    /// Number of the request.
    fn id(&self) -> u64;
}

/// One queue.
pub struct Queue<W> {
    waiting: VecDeque<W>,
    waiting_seats: u64,
    /// Requests from here that run, and their seats.
    running: u32,
    running_seats: u64,
    /// Virtual time at which its next request begins.
    next: f64,
}

impl<W> Default for Queue<W> {
    fn default() -> Queue<W> {
        Queue { waiting: VecDeque::new(), waiting_seats: 0, running: 0, running_seats: 0, next: 0.0 }
    }
}

/// What a queue looks like.
#[derive(Clone, Copy, Debug)]
pub struct QueueView {
    /// Requests that wait.
    pub waiting: usize,
    /// Their seats.
    pub waiting_seats: u64,
    /// Requests from here that run.
    pub running: u32,
    /// Their seats.
    pub running_seats: u64,
    /// Virtual time at which its next request begins.
    pub next: f64,
}

/// All queues of a level.
pub struct Queues<W> {
    queues: Vec<Queue<W>>,
    /// How many of them take requests; the others were more once and are emptied.
    dealt: usize,
    hand: usize,
    limit: usize,
    virtual_now: f64,
    waiting: usize,
    last: usize,
}

impl<W> Default for Queues<W> {
    fn default() -> Queues<W> {
        Queues { queues: Vec::new(), dealt: 0, hand: 0, limit: 0, virtual_now: 0.0, waiting: 0, last: 0 }
    }
}

impl<W: Waits> Queues<W> {
    /// Another number of queues, or none.
    pub fn configure(&mut self, queues: usize, hand: usize, limit: usize) {
        (self.dealt, self.hand, self.limit) = (queues, hand.clamp(1, queues.max(1)), limit);
        let needed = self.queues.iter().rposition(|queue| !queue.waiting.is_empty() || queue.running > 0).map_or(0, |last| last + 1);
        self.queues.resize_with(queues.max(needed), Queue::default);
    }

    /// Whether requests can wait at all.
    pub fn any(&self) -> bool {
        self.dealt > 0
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The virtual time.
    pub fn virtual_now(&self) -> f64 {
        self.virtual_now
    }

    /// Puts a request into a queue of its flow's hand: the length of that queue with it.
    ///
    /// # Errors
    /// The request, where all that could take it are full.
    pub fn push(&mut self, hash: u64, request: W) -> Result<usize, W> {
        let index = self.least_loaded(hash);
        let queue = &mut self.queues[index];
        if queue.waiting.len() >= self.limit {
            return Err(request);
        }
        if queue.waiting.is_empty() {
            // Time spent without anything to do is not saved up.
            queue.next = queue.next.max(self.virtual_now);
        }
        queue.waiting_seats += u64::from(request.seats());
        queue.waiting.push_back(request);
        self.waiting += 1;
        Ok(queue.waiting.len())
    }

    fn least_loaded(&self, hash: u64) -> usize {
        let load = |index: &usize| self.queues[*index].waiting_seats + self.queues[*index].running_seats;
        hand(hash, self.dealt, self.hand).into_iter().min_by_key(load).expect("a hand has a queue")
    }

    /// Takes the request whose turn it is if it fits, with its queue.
    pub fn pop(&mut self, fits: impl FnOnce(u32) -> bool) -> Option<(usize, W)> {
        let count = self.queues.len();
        let order = (1..=count).map(|step| (self.last + step) % count);
        let waiting = order.filter(|index| !self.queues[*index].waiting.is_empty());
        let index = waiting.min_by(|a, b| self.queues[*a].next.total_cmp(&self.queues[*b].next))?;
        if !fits(self.queues[index].waiting.front()?.seats()) {
            return None;
        }
        let queue = &mut self.queues[index];
        let request = queue.waiting.pop_front()?;
        let seats = request.seats();
        self.virtual_now = self.virtual_now.max(queue.next);
        queue.next += ESTIMATE * f64::from(seats);
        queue.waiting_seats -= u64::from(seats);
        queue.running += 1;
        queue.running_seats += u64::from(seats);
        self.waiting -= 1;
        self.last = index;
        Some((index, request))
    }

    /// A request from this queue has ended after so many seconds.
    pub fn ended(&mut self, index: usize, seats: u32, ran: f64) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        queue.running = queue.running.saturating_sub(1);
        queue.running_seats = queue.running_seats.saturating_sub(u64::from(seats));
        queue.next += (ran - ESTIMATE) * f64::from(seats);
    }

    /// Takes a request out whose caller does not wait any more.
    pub fn remove(&mut self, id: u64) -> Option<W> {
        for queue in &mut self.queues {
            if let Some(at) = queue.waiting.iter().position(|one| one.id() == id) {
                let request = queue.waiting.remove(at)?;
                queue.waiting_seats -= u64::from(request.seats());
                self.waiting -= 1;
                return Some(request);
            }
        }
        None
    }

    /// How the queues are.
    pub fn view(&self) -> Vec<QueueView> {
        let view = |queue: &Queue<W>| QueueView {
            waiting: queue.waiting.len(),
            waiting_seats: queue.waiting_seats,
            running: queue.running,
            running_seats: queue.running_seats,
            next: queue.next,
        };
        self.queues.iter().map(view).collect()
    }

    /// Every request that waits, with its queue and place.
    pub fn requests(&self) -> impl Iterator<Item = (usize, usize, &W)> {
        let queues = self.queues.iter().enumerate();
        queues.flat_map(|(index, queue)| queue.waiting.iter().enumerate().map(move |(place, request)| (index, place, request)))
    }
}

/// The different queues that a hash is dealt, as from a pack of cards.
fn hand(mut hash: u64, queues: usize, size: usize) -> Vec<usize> {
    let mut hand: Vec<usize> = Vec::with_capacity(size);
    for taken in 0..size.min(queues) {
        let left = (queues - taken) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card of the pack without those that were dealt.
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        for dealt in sorted {
            card += usize::from(dealt <= card);
        }
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(u64, u32);

    impl Waits for One {
        fn seats(&self) -> u32 {
            self.1
        }

        fn id(&self) -> u64 {
            self.0
        }
    }

    fn queues(count: usize, hand: usize, limit: usize) -> Queues<One> {
        let mut queues = Queues::default();
        queues.configure(count, hand, limit);
        queues
    }

    #[test]
    fn hands_have_different_queues_and_use_all_of_them() {
        let mut seen = vec![0; 64];
        for flow in 0..10_000_u64 {
            let dealt = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 64, 6);
            let mut sorted = dealt.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 6, "{dealt:?}");
            dealt.iter().for_each(|queue| seen[*queue] += 1);
        }
        assert!(seen.iter().all(|count| (600..1300).contains(count)), "{seen:?}");
    }

    /// A flow that fills its queues delays another one by one request, not by all of its own.
    #[test]
    fn a_light_flow_comes_in_turn() {
        let mut queues = queues(2, 1, 50);
        for id in 0..50 {
            assert!(queues.push(0, One(id, 1)).is_ok());
        }
        assert!(queues.push(0, One(50, 1)).is_err(), "the queue is full");
        assert_eq!(queues.push(1, One(100, 1)).ok(), Some(1));
        let first: Vec<u64> = (0..3).filter_map(|_| queues.pop(|_| true)).map(|(_, one)| one.0).collect();
        assert!(first[..2].contains(&100), "{first:?}");
    }

    #[test]
    fn long_requests_count_for_what_they_took() {
        let mut queues = queues(2, 1, 50);
        for id in 0..20 {
            queues.push(0, One(id, 1)).ok().unwrap();
            queues.push(1, One(100 + id, 1)).ok().unwrap();
        }
        // One at a time; those of the first flow take ten times as long.
        let mut ran = [0.0, 0.0];
        for _ in 0..22 {
            let (index, one) = queues.pop(|_| true).unwrap();
            let time = if one.0 < 100 { 0.1 } else { 0.01 };
            ran[usize::from(one.0 >= 100)] += time;
            queues.ended(index, 1, time);
        }
        assert!((ran[0] - ran[1]).abs() < 0.11, "both had the same time: {ran:?}");
    }

    #[test]
    fn wide_requests_wait_for_their_seats_and_removed_ones_are_gone() {
        let mut queues = queues(4, 2, 10);
        queues.push(7, One(1, 5)).ok().unwrap();
        assert!(queues.pop(|seats| seats <= 4).is_none());
        assert_eq!(queues.remove(1).map(|one| one.0), Some(1));
        assert!(queues.remove(1).is_none() && queues.waiting() == 0);
        queues.push(7, One(2, 5)).ok().unwrap();
        queues.configure(1, 1, 10);
        assert_eq!(queues.view().iter().map(|view| view.waiting).sum::<usize>(), 1, "what waits is kept when queues are fewer");
        assert!(queues.pop(|_| true).is_some());
    }
}
