//! What the server counts about its requests, under upstream's names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use client::metrics::{Unit, escape, head, histogram, sample, single};
use parking_lot::RwLock;
use store::Store;
use store::metrics::Histogram;

use crate::attributes::Classified;
use crate::catalog::Catalog;

/// Upper bounds of the duration buckets, in microseconds.
const BOUNDS: [u64; 12] = [5_000, 25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 2_000_000, 5_000_000, 60_000_000];

/// Upper bounds of the sizes of answers, in bytes.
const SIZES: [u64; 7] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    verb: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    scope: &'static str,
}

struct Series {
    codes: RwLock<BTreeMap<u16, AtomicU64>>,
    took: Histogram,
    sizes: Histogram,
}

impl Default for Series {
    fn default() -> Series {
        Series { codes: RwLock::default(), took: Histogram::new(&BOUNDS), sizes: Histogram::new(&SIZES) }
    }
}

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    series: RwLock<BTreeMap<Labels, Series>>,
    /// Requests that are being served: those that read, and those that write.
    in_flight: [AtomicI64; 2],
    /// Callers who were known, and who were not.
    pub authentications: [AtomicU64; 2],
    /// Requests that were allowed, and that were not.
    pub authorizations: [AtomicU64; 2],
    /// Handshakes that failed.
    pub handshakes: AtomicU64,
}

/// A request that is being served; also one whose caller goes away is counted out.
pub struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one more of a good and a bad outcome.
pub fn count(pair: &[AtomicU64; 2], good: bool) {
    pair[usize::from(!good)].fetch_add(1, Ordering::Relaxed);
}

/// Most different label sets that are kept: paths that clients invent must not fill the memory.
const MAX_SERIES: usize = 4000;

impl Metrics {
    /// The labels of a request.
    pub fn labels(&self, classified: &Classified) -> Labels {
        let attributes = &classified.attributes;
        let scope = if !attributes.is_resource() {
            ""
        } else if !attributes.name.is_empty() {
            "resource"
        } else if !attributes.namespace.is_empty() {
            "namespace"
        } else {
            "cluster"
        };
        let verb = match attributes.verb {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "OTHER",
        };
        Labels {
            verb,
            group: attributes.group.as_str().into(),
            version: attributes.version.as_str().into(),
            resource: attributes.resource.as_str().into(),
            subresource: attributes.subresource.as_str().into(),
            scope,
        }
    }

    /// Counts a request as being served for as long as the value lives.
    pub fn enter(&self, labels: &Labels) -> InFlight<'_> {
        let reads = matches!(labels.verb, "GET" | "LIST" | "WATCH" | "OTHER");
        let gauge = &self.in_flight[usize::from(!reads)];
        gauge.fetch_add(1, Ordering::Relaxed);
        InFlight(gauge)
    }

    /// Counts an answered request. Those that last have no size, and their time says nothing.
    pub fn observe(&self, labels: &Labels, code: u16, took: Duration, size: Option<u64>) {
        {
            let series = self.series.read();
            if let Some(one) = series.get(labels) {
                return one.observe(code, took, size);
            }
        }
        let mut series = self.series.write();
        if series.len() < MAX_SERIES {
            series.entry(labels.clone()).or_default().observe(code, took, size);
        }
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self, out: &mut String) {
        let series = self.series.read();
        head(out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (labels, one) in series.iter() {
            for (code, count) in one.codes.read().iter() {
                sample(out, "apiserver_request_total", &format!("code=\"{code}\",{}", labels.text()), count.load(Ordering::Relaxed));
            }
        }
        head(out, "apiserver_request_duration_seconds", "histogram", "Time to answer by verb and resource.");
        for (labels, one) in series.iter() {
            histogram(out, "apiserver_request_duration_seconds", &labels.text(), &one.took, Unit::Micros);
        }
        head(out, "apiserver_response_sizes", "histogram", "Bytes of answers to reads.");
        for (labels, one) in series.iter().filter(|(labels, _)| matches!(labels.verb, "GET" | "LIST")) {
            histogram(out, "apiserver_response_sizes", &labels.of_sizes(), &one.sizes, Unit::Count);
        }
        head(out, "apiserver_current_inflight_requests", "gauge", "Requests that are being served.");
        for (gauge, kind) in self.in_flight.iter().zip(["readOnly", "mutating"]) {
            let now = gauge.load(Ordering::Relaxed).max(0);
            sample(out, "apiserver_current_inflight_requests", &format!("request_kind=\"{kind}\""), now);
        }
        for (name, help, pair, results) in [
            ("authentication_attempts", "Callers by whether they are known.", &self.authentications, ["success", "failure"]),
            ("authorization_attempts_total", "Requests by whether they are allowed.", &self.authorizations, ["allowed", "denied"]),
        ] {
            head(out, name, "counter", help);
            for (count, result) in pair.iter().zip(results) {
                sample(out, name, &format!("result=\"{result}\""), count.load(Ordering::Relaxed));
            }
        }
        let failed = self.handshakes.load(Ordering::Relaxed);
        single(out, "apiserver_tls_handshake_errors_total", "counter", "TLS handshakes that failed.", failed);
    }
}

/// How many objects of each kind there are.
pub(crate) fn objects(catalog: &Catalog, store: &dyn Store, out: &mut String) {
    head(out, "apiserver_resource_objects", "gauge", "Stored objects by kind.");
    let mut seen = std::collections::BTreeSet::new();
    for served in &catalog.all {
        if served.def.has_verb("list") && seen.insert(served.store.clone()) {
            let labels = format!("group=\"{}\",resource=\"{}\"", escape(&served.def.group), escape(&served.def.plural));
            sample(out, "apiserver_resource_objects", &labels, store.mvcc().snapshot(&served.store).len());
        }
    }
}

/// What the store counts about itself.
pub(crate) fn store(store: &dyn Store, out: &mut String) {
    let counted = store.metrics();
    for (name, unit, help, values) in [
        ("knarr_store_commit_duration_seconds", Unit::Micros, "From the call to the answer of a committed change.", &counted.commit),
        ("knarr_store_sync_duration_seconds", Unit::Micros, "Writing and syncing one batch of changes.", &counted.sync),
        ("knarr_store_batch_size", Unit::Count, "Changes per batch.", &counted.batch),
    ] {
        head(out, name, "histogram", help);
        histogram(out, name, "", values, unit);
    }
    for (name, value, help) in [
        ("committed_total", counted.committed.get(), "Changes committed."),
        ("lost_total", counted.lost.get(), "Changes whose expectation did not hold."),
        ("failed_total", counted.failed.get(), "Changes that ended in an error."),
        ("expired_total", counted.expired.get(), "Objects deleted because their time to live ended."),
        ("snapshots_total", counted.snapshots.get(), "Snapshots written."),
        ("snapshot_failures_total", counted.snapshot_failures.get(), "Snapshots that could not be written."),
        ("log_bytes", counted.log_bytes.get(), "Bytes in the log since the last snapshot."),
        ("revision", counted.revision.get(), "The newest revision."),
        ("objects", counted.objects.get(), "Objects stored."),
        ("live_bytes", counted.live_bytes.get(), "Bytes of memory of the newest versions."),
        ("history_floor", counted.history_floor.get(), "The oldest revision that can be read."),
        ("history_events", counted.history_events.get(), "Changes in the history."),
        ("history_bytes", counted.history_bytes.get(), "Bytes of memory that only the history keeps."),
        ("watchers", counted.watchers.get(), "Open watches."),
        ("derived_bytes", store.derived().used() as u64, "Bytes of cached other encodings of objects."),
    ] {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        single(out, &format!("knarr_store_{name}"), kind, help, value);
    }
}

impl Series {
    fn observe(&self, code: u16, took: Duration, size: Option<u64>) {
        let known = self.codes.read().get(&code).map(|count| count.fetch_add(1, Ordering::Relaxed)).is_some();
        if !known {
            self.codes.write().entry(code).or_default().fetch_add(1, Ordering::Relaxed);
        }
        if let Some(size) = size {
            self.took.observe_duration(took);
            self.sizes.observe(size);
        }
    }
}

impl Labels {
    fn of_sizes(&self) -> String {
        self.text().replace("dry_run=\"\",", "")
    }

    fn text(&self) -> String {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            escape(&self.group),
            escape(&self.resource),
            self.scope,
            escape(&self.subresource),
            self.verb,
            escape(&self.version)
        )
    }
}
