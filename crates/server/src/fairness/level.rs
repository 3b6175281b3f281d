//! A priority level: how many seats are taken, and who waits for one.
//!
//! # Guarantees
//!
//! * The lock is held for arithmetic only, never while anybody waits.
//! * A seat is given back when its request ends, however it ends; a place in a queue as well.
//! * A request that is wider than the level's limit runs when nothing else does, so that it is never kept out for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::demand::{Demand, Integrator, Limits};
use super::flow::{Flow, Refusal, enter, leave};
use super::queues::{QueueView, Queues, Waits};

/// Numbers of requests, for finding them again in their queue.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// How a level treats requests that find no seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Every request has a seat.
    pub exempt: bool,
    /// `queues`, 0 where requests are refused at once.
    pub queues: usize,
    /// `handSize`.
    pub hand: usize,
    /// `queueLengthLimit`.
    pub length: usize,
}

/// One priority level.
pub struct Level {
    /// Its name.
    pub name: String,
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    limits: Limits,
    current: u32,
    seats: u32,
    running: u32,
    waiting_seats: u32,
    queues: Queues<Waiter>,
    integrator: Integrator,
    demand: Demand,
    counts: Counts,
    quiescing: bool,
    retry: Retry,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Let in.
    pub dispatched: u64,
    /// Refused at once.
    pub refused: u64,
    /// Refused after waiting.
    pub timed_out: u64,
    /// Left the queue by themselves.
    pub cancelled: u64,
}

/// What callers are told to wait: doubled while many are refused, less again when few are.
struct Retry {
    seconds: u64,
    since: Instant,
    refused: u64,
}

struct Waiter {
    id: u64,
    seats: u32,
    flow: Arc<Flow>,
    distinguisher: String,
    arrived: SystemTime,
    granted: oneshot::Sender<usize>,
}

impl Waits for Waiter {
    fn seats(&self) -> u32 {
        self.seats
    }

    fn id(&self) -> u64 {
        self.id
    }
}

/// How a level is at one moment.
#[derive(Clone, Debug)]
pub struct LevelView {
    /// What it was told.
    pub settings: Settings,
    /// By configuration.
    pub limits: Limits,
    /// With what it borrows and lends.
    pub current: u32,
    /// Seats that are taken.
    pub seats: u32,
    /// Requests that run.
    pub running: u32,
    /// Requests that wait.
    pub waiting: usize,
    /// Demand of the last period.
    pub demand: Demand,
    /// What became of requests.
    pub counts: Counts,
    /// Whether its object is gone.
    pub quiescing: bool,
    /// Virtual time of its queues.
    pub virtual_now: f64,
    /// Its queues.
    pub queues: Vec<QueueView>,
}

/// A request in a queue, for people.
#[derive(Clone, Debug)]
pub struct WaitingView {
    /// Flow schema.
    pub schema: String,
    /// Queue.
    pub queue: usize,
    /// Place in it.
    pub place: usize,
    /// Flow.
    pub distinguisher: String,
    /// When it came.
    pub arrived: SystemTime,
    /// Seats that it needs.
    pub seats: u32,
}

impl Level {
    /// A level without seats yet.
    pub fn new(name: &str, epoch: Instant) -> Level {
        let state = State {
            settings: Settings::default(),
            limits: Limits::default(),
            current: 0,
            seats: 0,
            running: 0,
            waiting_seats: 0,
            queues: Queues::default(),
            integrator: Integrator::default(),
            demand: Demand::default(),
            counts: Counts::default(),
            quiescing: false,
            retry: Retry { seconds: 1, since: epoch, refused: 0 },
        };
        Level { name: name.to_owned(), epoch, state: Mutex::new(state) }
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    /// Whether every request has a seat.
    pub fn is_exempt(&self) -> bool {
        self.state.lock().settings.exempt
    }

    /// Most seats that one request may take.
    pub fn widest(&self) -> u32 {
        let state = self.state.lock();
        if state.settings.exempt { 1 } else { (state.limits.nominal * 15 / 100).clamp(1, 10) }
    }

    /// Takes over what its object says.
    pub fn configure(&self, settings: Settings, limits: Limits) {
        let mut state = self.state.lock();
        if state.limits != limits {
            state.current = limits.nominal;
        }
        if state.settings != settings {
            state.queues.configure(settings.queues, settings.hand, settings.length);
        }
        (state.settings, state.limits, state.quiescing) = (settings, limits, false);
        state.dispatch();
    }

    /// Its object is gone: nobody new comes here, and those who are here are served.
    pub fn quiesce(&self) {
        self.state.lock().quiescing = true;
        tracing::debug!(level = self.name, "a priority level is gone");
    }

    /// Ends a period that lasted so many: the demand in it.
    pub fn observe(&self, now: Instant, periods: f64) -> (Limits, Demand, bool) {
        let now = self.seconds(now);
        let mut state = self.state.lock();
        let seen = state.integrator.take(now);
        state.demand.update(seen, periods);
        (state.limits, state.demand, state.settings.exempt)
    }

    /// Seats from now on.
    pub fn set_current(&self, seats: u32) {
        let mut state = self.state.lock();
        state.current = seats;
        state.dispatch();
    }

    /// A seat if there is one now, else a place in a queue.
    ///
    /// # Errors
    /// Full, with the seconds after which the caller may ask again.
    pub fn enter(
        self: &Arc<Self>,
        now: Instant,
        seats: u32,
        flow: &Arc<Flow>,
        name: impl FnOnce() -> (u64, String),
    ) -> Result<Entered, (Refusal, u64)> {
        let mut state = self.state.lock();
        if state.queues.waiting() == 0 && state.fits(seats) {
            state.take(seats);
            state.note(self.seconds(now));
            drop(state);
            return Ok(Entered::Seated(Seat::new(self.clone(), flow.clone(), seats, None, now)));
        }
        if !state.queues.any() {
            return Err((Refusal::Full, state.refuse(now)));
        }
        let (hash, distinguisher) = name();
        let (granted, grant) = oneshot::channel();
        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { id, seats, flow: flow.clone(), distinguisher, arrived: SystemTime::now(), granted };
        let Ok(length) = state.queues.push(hash, waiter) else { return Err((Refusal::QueueFull, state.refuse(now))) };
        state.waiting_seats += seats;
        state.note(self.seconds(now));
        enter(&flow.waiting, seats);
        flow.queue_length.observe(length as u64);
        let place = Place { level: self.clone(), flow: flow.clone(), seats, id, grant, taken: false, arrived: now };
        state.dispatch();
        drop(state);
        Ok(Entered::Queued(place))
    }

    fn leave(&self, seats: u32, queue: Option<usize>, ran: Duration, now: Instant) {
        let mut state = self.state.lock();
        state.seats -= seats;
        state.running -= 1;
        if let Some(index) = queue {
            state.queues.ended(index, seats, ran.as_secs_f64());
        }
        state.dispatch();
        let at = self.seconds(now);
        state.note(at);
    }

    /// How it is.
    pub fn view(&self) -> LevelView {
        let state = self.state.lock();
        LevelView {
            settings: state.settings,
            limits: state.limits,
            current: state.current,
            seats: state.seats,
            running: state.running,
            waiting: state.queues.waiting(),
            demand: state.demand,
            counts: state.counts,
            quiescing: state.quiescing,
            virtual_now: state.queues.virtual_now(),
            queues: state.queues.view(),
        }
    }

    /// Who waits.
    pub fn waiting(&self) -> Vec<WaitingView> {
        let state = self.state.lock();
        let view = |(queue, place, waiter): (usize, usize, &Waiter)| WaitingView {
            schema: waiter.flow.schema.clone(),
            queue,
            place,
            distinguisher: waiter.distinguisher.clone(),
            arrived: waiter.arrived,
            seats: waiter.seats,
        };
        state.queues.requests().map(view).collect()
    }
}

impl State {
    fn fits(&self, seats: u32) -> bool {
        if self.settings.exempt {
            true
        } else if seats > self.current {
            self.running == 0
        } else {
            self.seats + seats <= self.current
        }
    }

    fn take(&mut self, seats: u32) {
        self.seats += seats;
        self.running += 1;
        self.counts.dispatched += 1;
    }

    fn note(&mut self, now: f64) {
        self.integrator.set(now, f64::from(self.seats + self.waiting_seats));
    }

    /// Lets in whoever is next, as long as there are seats.
    fn dispatch(&mut self) {
        while self.queues.waiting() > 0 {
            let (exempt, running, seats, current) = (self.settings.exempt, self.running, self.seats, self.current);
            let fits = |wanted: u32| exempt || (wanted > current && running == 0) || seats + wanted <= current;
            let Some((queue, waiter)) = self.queues.pop(fits) else { return };
            self.waiting_seats -= waiter.seats;
            leave(&waiter.flow.waiting, waiter.seats);
            self.take(waiter.seats);
            // A caller who has just gone gives the seat back with its place.
            let _ = waiter.granted.send(queue);
        }
    }

    fn refuse(&mut self, now: Instant) -> u64 {
        self.counts.refused += 1;
        self.retry.next(now)
    }
}

impl Retry {
    const MOST: u64 = 32;

    fn next(&mut self, now: Instant) -> u64 {
        if now.saturating_duration_since(self.since).as_secs() >= self.seconds {
            if self.refused >= 3 * self.seconds {
                self.seconds = (self.seconds * 2).min(Self::MOST);
            } else if self.refused < self.seconds && self.seconds > 1 {
                self.seconds -= 1;
            }
            (self.since, self.refused) = (now, 0);
        }
        self.refused += 1;
        self.seconds
    }
}

/// What a request got.
pub enum Entered {
    /// A seat.
    Seated(Seat),
    /// A place in a queue.
    Queued(Place),
}

/// A seat that is held; dropping it gives it back.
pub struct Seat {
    level: Arc<Level>,
    flow: Arc<Flow>,
    seats: u32,
    queue: Option<usize>,
    began: Instant,
    /// Whether it was held to begin a watch.
    pub watch: bool,
}

impl Seat {
    fn new(level: Arc<Level>, flow: Arc<Flow>, seats: u32, queue: Option<usize>, began: Instant) -> Seat {
        flow.dispatched.fetch_add(1, Ordering::Relaxed);
        enter(&flow.running, seats);
        Seat { level, flow, seats, queue, began, watch: false }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = Instant::now();
        let ran = now.saturating_duration_since(self.began);
        leave(&self.flow.running, self.seats);
        self.flow.ran[usize::from(self.watch)].observe_duration(ran);
        self.level.leave(self.seats, self.queue, ran, now);
    }
}

/// A place in a queue; dropping it leaves the queue.
pub struct Place {
    level: Arc<Level>,
    flow: Arc<Flow>,
    seats: u32,
    id: u64,
    grant: oneshot::Receiver<usize>,
    taken: bool,
    arrived: Instant,
}

impl Place {
    /// Waits for a seat, at most until `until`.
    pub async fn seat_before(&mut self, until: Instant) -> Option<Seat> {
        let granted = tokio::time::timeout_at(until.into(), &mut self.grant).await;
        let queue = granted.ok()?.ok()?;
        self.taken = true;
        let now = Instant::now();
        self.flow.waited.observe_duration(now.saturating_duration_since(self.arrived));
        Some(Seat::new(self.level.clone(), self.flow.clone(), self.seats, Some(queue), now))
    }

    /// Leaves the queue because it took too long: the seconds after which the caller may ask again. A seat that was given at
    /// this very moment is used.
    pub fn give_up(mut self) -> Result<Seat, u64> {
        let now = Instant::now();
        let mut state = self.level.state.lock();
        if state.queues.remove(self.id).is_none() {
            drop(state);
            self.taken = true;
            let queue = self.grant.try_recv().ok();
            return Ok(Seat::new(self.level.clone(), self.flow.clone(), self.seats, queue, now));
        }
        state.waiting_seats -= self.seats;
        state.note(self.level.seconds(now));
        state.counts.timed_out += 1;
        let seconds = state.retry.next(now);
        state.dispatch();
        drop(state);
        self.taken = true;
        leave(&self.flow.waiting, self.seats);
        self.flow.waited_in_vain.observe_duration(now.saturating_duration_since(self.arrived));
        Err(seconds)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let now = Instant::now();
        let mut state = self.level.state.lock();
        if state.queues.remove(self.id).is_some() {
            state.waiting_seats -= self.seats;
            state.counts.cancelled += 1;
            state.dispatch();
            state.note(self.level.seconds(now));
            drop(state);
            leave(&self.flow.waiting, self.seats);
            self.flow.refuse(Refusal::Cancelled);
            self.flow.waited_in_vain.observe_duration(now.saturating_duration_since(self.arrived));
            return;
        }
        drop(state);
        // The seat came, and nobody is there to take it.
        let queue = self.grant.try_recv().ok();
        self.level.leave(self.seats, queue, Duration::ZERO, now);
    }
}
