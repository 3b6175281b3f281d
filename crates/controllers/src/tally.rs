//! Pods counted by owner while they come and go, so that a set of five thousand costs its controller no more than one of five.
//!
//! Pods of a set differ in few ways that matter to it. Those that are alike are one number here; a selector is then asked
//! about the few kinds of pods that there are, not about every pod.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use api::label_selector::LabelSelector;
use client::PodLite;
use parking_lot::Mutex;
use store::Entry;

/// Sorted labels as headers hold them.
type Labels = Arc<[(Box<str>, Box<str>)]>;

/// Whether a pod counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Active,
    /// Its deletion has begun.
    Leaving,
    /// All its containers have ended for good.
    Finished,
    /// Both.
    FinishedLeaving,
}

/// Pods that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Alike {
    labels: Labels,
    stage: Stage,
    ready: bool,
}

/// Whose pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    /// Those with this controller, by uid.
    Owner(Box<str>),
    /// Those without one, by namespace.
    Nobody(Box<str>),
}

/// Numbers of pods. Fed by one handler, read by reconciles.
#[derive(Default)]
pub struct Tally(Mutex<HashMap<Whose, HashMap<Alike, u32>>>);

/// What the pods of a set amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Active pods.
    pub active: usize,
    /// Those with all labels of the template.
    pub labeled: usize,
    /// Those that are ready.
    pub ready: usize,
    /// Pods that are leaving and have not ended.
    pub leaving: usize,
}

fn whose(pod: &Entry) -> Whose {
    match pod.header.controller() {
        Some(owner) => Whose::Owner(owner.uid.clone()),
        None => Whose::Nobody(pod.header.namespace.clone()),
    }
}

fn alike(pod: &Entry) -> Alike {
    let lite = pod.header.project::<PodLite>();
    let (finished, leaving) = (lite.is_some_and(PodLite::is_finished), pod.header.deletion_timestamp.is_some());
    let stage = match (finished, leaving) {
        (false, false) => Stage::Active,
        (false, true) => Stage::Leaving,
        (true, false) => Stage::Finished,
        (true, true) => Stage::FinishedLeaving,
    };
    Alike { labels: pod.header.labels.clone(), stage, ready: lite.is_some_and(|lite| lite.ready) }
}

impl Tally {
    /// Follows a change of a pod.
    pub fn changed(&self, old: Option<&Entry>, new: Option<&Entry>) {
        let [before, after] = [old, new].map(|pod| pod.map(|pod| (whose(pod), alike(pod))));
        if before == after {
            return;
        }
        let mut tally = self.0.lock();
        if let Some((whose, alike)) = before
            && let Place::Occupied(mut pods) = tally.entry(whose)
        {
            if let Place::Occupied(mut count) = pods.get_mut().entry(alike) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if pods.get().is_empty() {
                pods.remove();
            }
        }
        if let Some((whose, alike)) = after {
            *tally.entry(whose).or_default().entry(alike).or_insert(0) += 1;
        }
    }

    /// What the pods of an owner amount to; `None` while some pod is to be adopted or given back, which is decided pod by pod.
    pub fn summary(&self, uid: &str, namespace: &str, selector: &LabelSelector, template: &[(&str, &str)]) -> Option<Summary> {
        let tally = self.0.lock();
        let orphans = tally.get(&Whose::Nobody(namespace.into()));
        if orphans.into_iter().flatten().any(|(pod, _)| pod.stage == Stage::Active && selector.matches_sorted(&pod.labels)) {
            return None;
        }
        let mut summary = Summary::default();
        for (pod, count) in tally.get(&Whose::Owner(uid.into())).into_iter().flatten() {
            let count = *count as usize;
            match (selector.matches_sorted(&pod.labels), pod.stage) {
                (false, Stage::Active | Stage::Finished) => return None,
                (true, Stage::Active) => {
                    summary.active += count;
                    summary.ready += if pod.ready { count } else { 0 };
                    let has = |(key, value): &(&str, &str)| pod.labels.iter().any(|(name, text)| **name == **key && **text == **value);
                    summary.labeled += if template.iter().all(has) { count } else { 0 };
                }
                (true, Stage::Leaving) => summary.leaving += count,
                _ => {}
            }
        }
        Some(summary)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use store::{Kind, Revision};

    use super::*;

    /// `owner app stage`: a pod whose labels are `app` and, where it has an owner `u`, that controller.
    fn pod(owner: &str, app: &str, stage: &str) -> Entry {
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"app": app}}, "status": {}});
        if !owner.is_empty() {
            pod["metadata"]["ownerReferences"] =
                json!([{"uid": owner, "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "controller": true}]);
        }
        match stage {
            "ready" => pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
            "leaving" => pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            "ended" => pod["status"]["phase"] = "Failed".into(),
            _ => {}
        }
        let (key, bytes) = (Kind::new("/registry/pods/").key("n/p"), Bytes::from(pod.to_string()));
        let header = client::header::read(&key, &bytes).unwrap();
        Entry::new(key, Revision(1), Revision(1), bytes, header)
    }

    fn summary(tally: &Tally) -> Option<Summary> {
        tally.summary("u", "n", &LabelSelector::from_map([("app", "a")]), &[("app", "a")])
    }

    #[test]
    fn pods_are_counted_as_they_come_and_go() {
        let tally = Tally::default();
        let (plain, ready) = (pod("u", "a", ""), pod("u", "a", "ready"));
        for one in [&plain, &plain, &pod("u", "a", "leaving"), &pod("u", "a", "ended"), &pod("x", "a", ""), &pod("", "b", "")] {
            tally.changed(None, Some(one));
        }
        assert_eq!(summary(&tally), Some(Summary { active: 2, labeled: 2, ready: 0, leaving: 1 }));
        tally.changed(Some(&plain), Some(&ready));
        assert_eq!(summary(&tally), Some(Summary { active: 2, labeled: 2, ready: 1, leaving: 1 }));
        tally.changed(Some(&ready), None);
        assert_eq!(summary(&tally), Some(Summary { active: 1, labeled: 1, ready: 0, leaving: 1 }));
        // One that left the selector, and one that nobody owns, are for the controller to look at.
        for odd in [pod("u", "b", ""), pod("u", "b", "ended"), pod("", "a", "")] {
            tally.changed(None, Some(&odd));
            assert_eq!(summary(&tally), None);
            tally.changed(Some(&odd), None);
            assert!(summary(&tally).is_some());
        }
        tally.changed(None, Some(&pod("", "a", "leaving")));
        assert!(summary(&tally).is_some());
    }

    #[test]
    fn nothing_stays_of_pods_that_are_gone() {
        let tally = Tally::default();
        let pods = ["", "ready", "leaving", "ended"].map(|stage| pod("u", "a", stage));
        pods.iter().for_each(|pod| tally.changed(None, Some(pod)));
        pods.iter().for_each(|pod| tally.changed(Some(pod), None));
        assert!(tally.0.lock().is_empty());
    }
}
