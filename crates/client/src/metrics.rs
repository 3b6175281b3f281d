//! Metrics as text: how every component writes its numbers, and the list of those who have some.
//!
//! It stands here because all components that count something stand above this crate, and none of them sees another one.

use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, PoisonError};

use store::metrics::Histogram;

use crate::checks::Checks;

/// Upper bounds for durations from a millisecond to a quarter of an hour, in microseconds.
pub const LONG_BOUNDS: [u64; 18] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    900_000_000,
];

/// Name of the source that tells of the process as a whole.
pub const PROCESS: &str = "process";

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a histogram's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds, written as seconds.
    Micros,
    /// Plain numbers.
    Count,
}

impl Unit {
    fn show(self, value: u64) -> f64 {
        match self {
            // A division gives the shortest decimal fraction, a multiplication by 0.000001 does not.
            Unit::Micros => value as f64 / 1e6,
            Unit::Count => value as f64,
        }
    }
}

/// Begins a metric. Its samples must follow before the next one begins.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes one number. The labels are written as in the text, without braces, and may be empty.
pub fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

/// A metric with one number.
pub fn single(out: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    head(out, name, kind, help);
    sample(out, name, "", value);
}

/// Writes the samples of a histogram whose metric has begun.
pub fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram, unit: Unit) {
    let values = histogram.values();
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in &values.buckets {
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", unit.show(*bound));
    }
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", values.count);
    sample(out, &format!("{name}_sum"), labels, unit.show(values.sum));
    sample(out, &format!("{name}_count"), labels, values.count);
}

/// A label's value as it is written between the quotes.
pub fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

type Source = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Those of a process who have numbers, each under a name of its own. Clones share the list.
#[derive(Clone, Default)]
pub struct Sources {
    all: Arc<Mutex<Vec<(String, Source)>>>,
    checks: Arc<Checks>,
}

impl Sources {
    /// Adds somebody, in place of the one that had the name: a component that is started again shows itself once.
    pub fn set(&self, name: &str, source: impl Fn(&mut String) + Send + Sync + 'static) {
        let mut sources = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|(known, _)| known != name);
        sources.push((name.to_owned(), Arc::new(source)));
    }

    /// How well the process was whenever somebody asked.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The same checks without numbers, for a port that tells nobody of these.
    #[must_use]
    pub fn checks_alone(&self) -> Sources {
        Sources { all: Arc::default(), checks: self.checks.clone() }
    }

    /// Appends the numbers of everybody.
    pub fn render(&self, out: &mut String) {
        self.render_those(out, |_| true);
    }

    /// Appends the numbers of those whose names are wanted.
    pub fn render_those(&self, out: &mut String, wanted: impl Fn(&str) -> bool) {
        // Nobody is called under the lock.
        let sources = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (_, source) in sources.iter().filter(|(name, _)| wanted(name)) {
            source(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_collectors_read_them() {
        let durations = Histogram::new(&[50, 2_500_000]);
        durations.observe(50);
        durations.observe(3_000_000);
        let mut text = String::new();
        head(&mut text, "a_seconds", "histogram", "Help.");
        histogram(&mut text, "a_seconds", "name=\"x\"", &durations, Unit::Micros);
        single(&mut text, "b", "gauge", "Help.", 7);
        let lines: Vec<&str> = text.lines().collect();
        let expected = [
            "# HELP a_seconds Help.",
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{name=\"x\",le=\"0.00005\"} 1",
            "a_seconds_bucket{name=\"x\",le=\"2.5\"} 1",
            "a_seconds_bucket{name=\"x\",le=\"+Inf\"} 2",
            "a_seconds_sum{name=\"x\"} 3.00005",
            "a_seconds_count{name=\"x\"} 2",
            "# HELP b Help.",
            "# TYPE b gauge",
            "b 7",
        ];
        assert_eq!(lines, expected);
        assert_eq!(escape("a\"b\\c\n"), "a\\\"b\\\\c\\n");
    }

    #[test]
    fn a_name_stands_once() {
        let sources = Sources::default();
        for number in 0..3 {
            sources.set("a", move |out| single(out, "a", "gauge", "Help.", number));
        }
        sources.set("b", |out| single(out, "b", "gauge", "Help.", 1));
        let (mut all, mut one) = (String::new(), String::new());
        sources.render(&mut all);
        sources.render_those(&mut one, |name| name == "b");
        assert!(all.contains("\na 2\n") && !all.contains("\na 0\n") && all.contains("\nb 1\n"));
        assert!(!one.contains("\na ") && one.contains("\nb 1\n"));
    }
}
