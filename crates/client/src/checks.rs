//! Whether a component is well, part by part, as `/healthz` and its like answer it, and how each part was whenever somebody
//! asked for all of them: `/metrics/slis`.
//!
//! It stands here for the reason that metrics do: every component that answers such paths stands above this crate.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::metrics::{escape, head, sample};

/// How parts were, by part and path.
#[derive(Default)]
pub struct Checks(Mutex<BTreeMap<(&'static str, Box<str>), Outcomes>>);

#[derive(Default)]
struct Outcomes {
    well: u64,
    failed: u64,
    is_well: bool,
}

/// What a path answers when it is asked for all parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// All are well.
    pub is_well: bool,
    /// In words; why a part is not well is nobody's business.
    pub text: String,
}

impl Checks {
    /// Looks at all parts but those that are left out. `kind` is the path, `verbose` has all parts told also when all are well.
    pub fn ask(
        &self,
        kind: &str,
        parts: impl IntoIterator<Item = &'static str>,
        is_well: impl Fn(&str) -> bool,
        excluded: &[&str],
        verbose: bool,
    ) -> Answer {
        let (mut text, mut all_well) = (String::new(), true);
        for name in parts {
            if excluded.contains(&name) {
                text += &format!("[+]{name} excluded: ok\n");
                continue;
            }
            let well = is_well(name);
            self.note(name, kind, well);
            all_well &= well;
            text += &if well { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") };
        }
        let text = match (all_well, verbose) {
            (false, _) => format!("{text}{kind} check failed\n"),
            (true, true) => format!("{text}{kind} check passed\n"),
            (true, false) => "ok".to_owned(),
        };
        Answer { is_well: all_well, text }
    }

    /// The same for parts that are well as long as somebody answers, with the query as it came.
    pub fn ask_the_living(&self, kind: &str, parts: &[&'static str], query: &str) -> Answer {
        let pairs = || query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let excluded: Vec<&str> = pairs().filter(|(name, _)| *name == "exclude").map(|(_, value)| value).collect();
        let verbose = pairs().any(|(name, _)| name == "verbose");
        self.ask(kind, parts.iter().copied(), |_| true, &excluded, verbose)
    }

    fn note(&self, name: &'static str, kind: &str, is_well: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcomes = all.entry((name, kind.into())).or_default();
        outcomes.is_well = is_well;
        *(if is_well { &mut outcomes.well } else { &mut outcomes.failed }) += 1;
    }

    /// Writes how they were under upstream's names; nothing before somebody has asked.
    pub fn render(&self, out: &mut String) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        let (gauge, counter) = ("kubernetes_healthcheck", "kubernetes_healthchecks_total");
        head(out, gauge, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
        for ((name, kind), outcomes) in all.iter() {
            sample(out, gauge, &format!("name=\"{}\",type=\"{}\"", escape(name), escape(kind)), u8::from(outcomes.is_well));
        }
        head(out, counter, "counter", "[STABLE] This metric records the results of all healthcheck.");
        for ((name, kind), outcomes) in all.iter() {
            for (status, count) in [("error", outcomes.failed), ("success", outcomes.well)] {
                if count > 0 {
                    let labels = format!("name=\"{}\",status=\"{status}\",type=\"{}\"", escape(name), escape(kind));
                    sample(out, counter, &labels, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_asked_told_and_counted() {
        let checks = Checks::default();
        let mut text = String::new();
        checks.render(&mut text);
        assert_eq!(text, "");
        let ask = |query: &str| checks.ask_the_living("healthz", &["ping", "log"], query).text;
        assert_eq!([ask(""), ask("timeout=1s")], ["ok", "ok"]);
        assert_eq!(ask("verbose&exclude=log"), "[+]ping ok\n[+]log excluded: ok\nhealthz check passed\n");
        let failed = checks.ask("readyz", ["ping", "etcd"], |name| name == "ping", &[], false);
        assert_eq!(failed, Answer { is_well: false, text: "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n".into() });
        checks.render(&mut text);
        let numbers: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            numbers,
            [
                "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 0",
                "kubernetes_healthcheck{name=\"log\",type=\"healthz\"} 1",
                "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1",
                "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
                "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"readyz\"} 1",
                "kubernetes_healthchecks_total{name=\"log\",status=\"success\",type=\"healthz\"} 2",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 3",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1",
            ]
        );
    }
}
