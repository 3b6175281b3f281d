//! What the server counts about its requests, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::attributes::Classified;

/// Upper bounds of the duration buckets, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 60.0];

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

#[derive(Default)]
struct Series {
    codes: RwLock<BTreeMap<u16, AtomicU64>>,
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    series: RwLock<BTreeMap<Labels, Series>>,
    /// Requests that are being served.
    pub in_flight: AtomicI64,
}

/// A request that is being served; also one whose caller goes away is counted out.
pub struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
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
    pub fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Counts an answered request.
    pub fn observe(&self, labels: &Labels, code: u16, took: Duration, long_running: bool) {
        {
            let series = self.series.read();
            if let Some(one) = series.get(labels) {
                return one.observe(code, took, long_running);
            }
        }
        let mut series = self.series.write();
        if series.len() < MAX_SERIES {
            series.entry(labels.clone()).or_default().observe(code, took, long_running);
        }
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self, out: &mut String) {
        let series = self.series.read();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all text");
        };
        head(out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (labels, one) in series.iter() {
            for (code, count) in one.codes.read().iter() {
                let count = count.load(Ordering::Relaxed);
                writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", labels.text()).expect("a string takes all text");
            }
        }
        head(out, "apiserver_request_duration_seconds", "histogram", "Time to answer by verb and resource.");
        for (labels, one) in series.iter() {
            let text = labels.text();
            let mut sum = 0;
            for (bound, bucket) in BOUNDS.iter().zip(&one.buckets) {
                sum += bucket.load(Ordering::Relaxed);
                writeln!(out, "apiserver_request_duration_seconds_bucket{{{text},le=\"{bound}\"}} {sum}").expect("a string takes all text");
            }
            let count = one.count.load(Ordering::Relaxed);
            let seconds = one.micros.load(Ordering::Relaxed) as f64 / 1e6;
            writeln!(out, "apiserver_request_duration_seconds_bucket{{{text},le=\"+Inf\"}} {count}").expect("a string takes all text");
            writeln!(out, "apiserver_request_duration_seconds_sum{{{text}}} {seconds}").expect("a string takes all text");
            writeln!(out, "apiserver_request_duration_seconds_count{{{text}}} {count}").expect("a string takes all text");
        }
        head(out, "apiserver_current_inflight_requests", "gauge", "Requests that are being served.");
        let now = self.in_flight.load(Ordering::Relaxed).max(0);
        writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"all\"}} {now}").expect("a string takes all text");
    }
}

impl Series {
    fn observe(&self, code: u16, took: Duration, long_running: bool) {
        let known = self.codes.read().get(&code).map(|count| count.fetch_add(1, Ordering::Relaxed)).is_some();
        if !known {
            self.codes.write().entry(code).or_default().fetch_add(1, Ordering::Relaxed);
        }
        if long_running {
            return;
        }
        let seconds = took.as_secs_f64();
        if let Some(index) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Labels {
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

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
