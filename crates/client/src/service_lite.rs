//! What controllers need of a service without decoding it: kept beside every service version.

use api::Object;
use serde_json::Value;

/// The small projection of a service: every change of a pod asks all services of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLite {
    /// `spec.selector`.
    pub selector: Box<[(Box<str>, Box<str>)]>,
}

impl ServiceLite {
    /// Paths that the projection reads: (top field, second field).
    pub(crate) const PATHS: &'static [(&'static str, &'static str)] = &[("spec", "selector")];

    /// Reads the projection off a decoded (or pruned) service.
    pub fn of(service: &Object) -> ServiceLite {
        let selector = service.at(&["spec", "selector"]).and_then(Value::as_object);
        let pairs = selector.into_iter().flatten().map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or("").into()));
        ServiceLite { selector: pairs.collect() }
    }

    /// Whether the service chooses its pods by labels, and these are among them.
    pub fn selects(&self, pod: &store::Header) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| pod.label(key) == Some(value))
    }
}
