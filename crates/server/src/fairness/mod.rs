//! API priority and fairness: which requests run, which wait and which are refused, so that one caller's storm leaves room
//! for the others.
//!
//! ```text
//! request -> flow schema (first that matches) -> priority level -> seats free? runs : waits in a queue of its flow : 429
//! ```
//!
//! # Guarantees
//!
//! * Whoever finds a free seat pays for a few comparisons and one short lock of its own level.
//! * Nothing runs while nobody calls: seats are lent and borrowed by the requests that come after a period has passed.
//! * Calls that the server makes to itself are exempt (they are of `system:masters`), so a request that holds a seat never
//!   waits for another one.

mod demand;
mod flow;
mod keeper;
mod level;
mod queues;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod width;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{Object, Status};
use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde_json::Value;

use crate::attributes::{Attributes, Verb};
use crate::request::Reply;
use crate::user::User;
use demand::{Claim, PERIOD, Share};
use flow::{Flow, Refusal};
pub use keeper::start;
pub use level::Seat;
use level::{Entered, Level, Settings};
pub use schema::Schema;
pub use width::seats;

/// Group of the objects.
const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The objects that are always in force, whatever is stored.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
/// Header that names the flow schema.
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
/// Header that names the priority level.
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Most flows that are counted by name.
const MAX_FLOWS: usize = 10_000;

/// All levels and schemas of a server.
pub struct Fairness {
    plan: ArcSwap<Plan>,
    total: u32,
    patience: Duration,
    epoch: Instant,
    /// When seats are lent and borrowed next, in milliseconds since the epoch, and when they were last.
    next: AtomicU64,
    last: AtomicU64,
    /// The fraction of its target that each level has, as bits.
    fraction: AtomicU64,
    hashes: RandomState,
    flows: Mutex<BTreeMap<(String, String), Arc<Flow>>>,
}

/// What is in force.
struct Plan {
    /// By precedence, then by name.
    schemas: Vec<Arc<Schema>>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// A request that is refused.
#[derive(Clone, Copy, Debug)]
pub struct TooMany {
    /// Seconds after which it may be made again.
    pub retry_after: u64,
}

impl TooMany {
    /// For components of the same process.
    pub fn status(self) -> Status {
        let seconds = u32::try_from(self.retry_after).unwrap_or(u32::MAX);
        Status::too_many_requests("the server has received too many requests and has asked us to try again later", seconds)
    }

    /// For everybody else: the plain text that the real server answers with.
    pub fn answer(self) -> Reply {
        let text = "Too many requests, please try again later.\n";
        let mut reply = crate::request::reply(http::StatusCode::TOO_MANY_REQUESTS, "text/plain; charset=utf-8", text);
        reply.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        reply.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        reply.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        reply
    }
}

impl Fairness {
    /// So many seats, and the objects of a new cluster in force.
    pub fn new(total: usize, request_timeout: Duration) -> Fairness {
        let fairness = Fairness {
            plan: ArcSwap::from_pointee(Plan { schemas: Vec::new(), levels: BTreeMap::new() }),
            total: u32::try_from(total).unwrap_or(u32::MAX),
            patience: request_timeout / 4,
            epoch: Instant::now(),
            next: AtomicU64::new(0),
            last: AtomicU64::new(0),
            fraction: AtomicU64::new(0),
            hashes: RandomState::new(),
            flows: Mutex::default(),
        };
        fairness.load(keeper::recorded("FlowSchema"), keeper::recorded("PriorityLevelConfiguration"));
        fairness
    }

    /// The schema of a request. Long-running requests other than watches have none.
    pub fn classify(&self, user: &User, attributes: &Attributes, verb: Verb) -> Option<Arc<Schema>> {
        if verb != Verb::Watch && crate::steps::admit::is_long_running(attributes, verb) {
            return None;
        }
        let plan = self.plan.load();
        plan.schemas.iter().find(|schema| schema.matches(user, attributes)).or_else(|| plan.schemas.last()).cloned()
    }

    /// Waits for a seat.
    ///
    /// # Errors
    /// The level is full and its queues are, or no seat came in time.
    pub async fn admit(
        &self,
        schema: &Schema,
        user: &User,
        attributes: &Attributes,
        width: impl FnOnce(u32) -> u32,
    ) -> Result<Seat, TooMany> {
        let began = Instant::now();
        self.tick(began);
        let flow = &schema.flow;
        let seats = if schema.level.is_exempt() { 1 } else { width(schema.level.widest()) };
        flow.width.observe(u64::from(seats));
        let name = || {
            let name = schema.distinguisher(user, attributes);
            (self.hashes.hash_one((schema.name.as_str(), name)), name.to_owned())
        };
        let refused = |(why, retry_after): (Refusal, u64)| {
            flow.refuse(why);
            flow.waited_in_vain.observe(0);
            TooMany { retry_after }
        };
        let mut place = match schema.level.enter(began, seats, flow, name).map_err(refused)? {
            Entered::Seated(seat) => {
                flow.waited.observe(0);
                return Ok(seat);
            }
            Entered::Queued(place) => place,
        };
        let deadline = began + self.patience;
        loop {
            let due = self.epoch + Duration::from_millis(self.next.load(Ordering::Relaxed));
            if let Some(seat) = place.seat_before(deadline.min(due)).await {
                return Ok(seat);
            }
            let now = Instant::now();
            if now >= deadline {
                return place.give_up().map_err(|retry_after| {
                    flow.refuse(Refusal::TimedOut);
                    TooMany { retry_after }
                });
            }
            self.tick(now);
        }
    }

    /// Lends and borrows seats if a period has passed.
    fn tick(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let due = self.next.load(Ordering::Relaxed);
        if millis >= due
            && self.next.compare_exchange(due, millis + PERIOD.as_millis() as u64, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.adjust(now);
        }
    }

    fn adjust(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let before = self.last.swap(millis, Ordering::Relaxed);
        let periods = millis.saturating_sub(before) as f64 / PERIOD.as_millis() as f64;
        let plan = self.plan.load();
        let claim = |level: &Arc<Level>| {
            let (limits, demand, exempt) = level.observe(now, periods);
            Claim { limits, demand, exempt }
        };
        let claims: Vec<Claim> = plan.levels.values().map(claim).collect();
        let (current, fraction) = demand::allocate(&claims);
        self.fraction.store(fraction.to_bits(), Ordering::Relaxed);
        for (level, seats) in plan.levels.values().zip(current) {
            level.set_current(seats);
        }
    }

    /// Puts objects in force. The mandatory ones are there even if they are not among them.
    fn load(&self, mut schemas: Vec<Object>, mut levels: Vec<Object>) {
        for (kind, objects) in [("FlowSchema", &mut schemas), ("PriorityLevelConfiguration", &mut levels)] {
            let missing = |object: &Object| MANDATORY.contains(&object.name()) && !objects.iter().any(|one| one.name() == object.name());
            let missing: Vec<Object> = keeper::recorded(kind).into_iter().filter(missing).collect();
            objects.extend(missing);
        }
        levels.sort_by(|a, b| a.name().cmp(b.name()));
        let old = self.plan.load_full();
        let shares: Vec<Share> = levels.iter().map(share).collect();
        let limits = demand::limits(self.total, &shares);
        let mut plan = Plan { schemas: Vec::new(), levels: BTreeMap::new() };
        let mut uids = BTreeMap::new();
        for (object, limits) in levels.iter().zip(limits) {
            let name = object.name();
            let level = old.levels.get(name).cloned().unwrap_or_else(|| Arc::new(Level::new(name, self.epoch)));
            level.configure(settings(object), limits);
            plan.levels.insert(name.to_owned(), level);
            uids.insert(name.to_owned(), schema::header(object.uid()));
        }
        for (_, gone) in old.levels.iter().filter(|(name, _)| !plan.levels.contains_key(*name)) {
            gone.quiesce();
        }
        for object in &schemas {
            let read = schema::Read::of(object);
            let Some(level) = plan.levels.get(&read.level) else { continue };
            let flow = self.flow(object.name(), &read.level);
            let uid = uids.get(&read.level).cloned().unwrap_or(HeaderValue::from_static(""));
            plan.schemas.push(Arc::new(read.on(object, level.clone(), uid, flow)));
        }
        plan.schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.plan.store(Arc::new(plan));
        self.adjust(Instant::now());
    }

    fn flow(&self, schema: &str, level: &str) -> Arc<Flow> {
        let mut flows = self.flows.lock();
        let key = (schema.to_owned(), level.to_owned());
        if flows.len() >= MAX_FLOWS && !flows.contains_key(&key) {
            return Arc::new(Flow::new(schema, level));
        }
        flows.entry(key).or_insert_with(|| Arc::new(Flow::new(schema, level))).clone()
    }
}

impl Schema {
    /// Tells the caller which schema and level its request belonged to.
    pub fn mark(&self, reply: &mut Reply) {
        let headers = reply.headers_mut();
        headers.insert(SCHEMA_HEADER, self.uid.clone());
        headers.insert(LEVEL_HEADER, self.level_uid.clone());
    }
}

fn share(object: &Object) -> Share {
    let spec = object.get("spec").cloned().unwrap_or_default();
    let of = if spec["type"] == "Exempt" { &spec["exempt"] } else { &spec["limited"] };
    let usual = if spec["type"] == "Exempt" { 0 } else { 30 };
    Share {
        shares: of["nominalConcurrencyShares"].as_i64().unwrap_or(usual),
        lendable: of["lendablePercent"].as_i64().unwrap_or(0),
        borrowing: of["borrowingLimitPercent"].as_i64(),
    }
}

fn settings(object: &Object) -> Settings {
    let spec = object.get("spec").cloned().unwrap_or_default();
    let queuing = &spec["limited"]["limitResponse"]["queuing"];
    let number = |field: &str| queuing[field].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    Settings {
        exempt: spec["type"] == "Exempt",
        queues: if matches!(queuing, Value::Object(_)) { number("queues").min(10_000_000) } else { 0 },
        hand: number("handSize"),
        length: number("queueLengthLimit"),
    }
}
