//! A client that notes the revisions of its own writes, by resource.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use client::{ListWatch, Selection, Transport};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use serde::Deserialize;
use store::Revision;

/// What one write did to a resource, which caches will show in time.
pub(crate) struct Mark {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) effect: Effect,
}

/// How to tell that a cache shows a write.
pub(crate) enum Effect {
    /// It has reached this revision.
    Revision(Revision),
    /// The object with this uid is gone or marked as leaving.
    Leaving { namespace: String, name: String, uid: String },
}

/// The writes of one reconcile.
pub(crate) type Written = Arc<Mutex<Vec<Mark>>>;

/// Passes calls on and notes what writes returned.
pub(crate) struct Tracked {
    inner: Arc<dyn Transport>,
    written: Written,
}

impl Tracked {
    pub(crate) fn new(inner: Arc<dyn Transport>, written: Written) -> Tracked {
        Tracked { inner, written }
    }

    fn note(&self, method: &Method, path: &str, body: &Bytes) {
        let Some(target) = target_of(path) else {
            return;
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
            return;
        };
        let effect = if *method == Method::DELETE {
            let uid = if answer.kind == "Status" { answer.details.uid } else { answer.metadata.uid };
            if uid.is_empty() || target.name.is_empty() {
                return;
            }
            Effect::Leaving { namespace: target.namespace.to_owned(), name: target.name.to_owned(), uid }
        } else {
            let Ok(revision) = answer.metadata.resource_version.parse::<u64>() else {
                return;
            };
            if answer.kind == "Status" {
                return;
            }
            Effect::Revision(Revision(revision))
        };
        self.written.lock().push(Mark { group: target.group.to_owned(), plural: target.plural.to_owned(), effect });
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    details: Details,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    resource_version: String,
    uid: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    uid: String,
}

impl Transport for Tracked {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        Box::pin(async move {
            let method = request.method().clone();
            let path = (method != Method::GET).then(|| request.uri().path().to_owned());
            let response = self.inner.call(request).await?;
            if let Some(path) = path {
                self.note(&method, &path, response.body());
            }
            Ok(response)
        })
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        self.inner.list_watch(selection)
    }
}

/// What a resource path names.
struct Target<'a> {
    group: &'a str,
    plural: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// The target of a resource path; `None` for paths of other things and for subresources that exchange another kind.
fn target_of(path: &str) -> Option<Target<'_>> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let rest: Vec<&str> = parts.collect();
    let (plural, namespace, name) = match *rest.as_slice() {
        ["namespaces", name] | ["namespaces", name, "status" | "finalize"] => ("namespaces", "", name),
        ["namespaces", namespace, plural] => (plural, namespace, ""),
        ["namespaces", namespace, plural, name] | ["namespaces", namespace, plural, name, "status"] => (plural, namespace, name),
        [plural] => (plural, "", ""),
        [plural, name] | [plural, name, "status"] => (plural, "", name),
        _ => return None,
    };
    Some(Target { group, plural, namespace, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_targets() {
        let cases = [
            ("/api/v1/namespaces/a/pods/p", Some(("", "pods", "a", "p"))),
            ("/api/v1/namespaces/a/pods/p/status", Some(("", "pods", "a", "p"))),
            ("/api/v1/namespaces/a/pods/p/binding", None),
            ("/api/v1/namespaces/a/finalize", Some(("", "namespaces", "", "a"))),
            ("/apis/apps/v1/namespaces/a/replicasets", Some(("apps", "replicasets", "a", ""))),
            ("/api/v1/nodes/n", Some(("", "nodes", "", "n"))),
            ("/version", None),
        ];
        for (path, wanted) in cases {
            let found = target_of(path).map(|target| (target.group, target.plural, target.namespace, target.name));
            assert_eq!(found, wanted, "{path}");
        }
    }
}
