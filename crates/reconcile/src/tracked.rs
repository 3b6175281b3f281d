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

/// Revisions written, by group and plural.
pub(crate) type Written = Arc<Mutex<Vec<(String, String, Revision)>>>;

/// Passes calls on and notes what writes returned.
pub(crate) struct Tracked {
    inner: Arc<dyn Transport>,
    written: Written,
}

impl Tracked {
    pub(crate) fn new(inner: Arc<dyn Transport>, written: Written) -> Tracked {
        Tracked { inner, written }
    }

    fn note(&self, path: &str, body: &Bytes) {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            kind: String,
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            #[serde(default)]
            resource_version: String,
        }
        let Some((group, plural)) = resource_of(path) else {
            return;
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
            return;
        };
        let Ok(revision) = answer.metadata.resource_version.parse::<u64>() else {
            return;
        };
        if answer.kind != "Status" {
            self.written.lock().push((group.to_owned(), plural.to_owned(), Revision(revision)));
        }
    }
}

impl Transport for Tracked {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        Box::pin(async move {
            let write = request.method() != Method::GET;
            let path = write.then(|| request.uri().path().to_owned());
            let response = self.inner.call(request).await?;
            if let Some(path) = path {
                self.note(&path, response.body());
            }
            Ok(response)
        })
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        self.inner.list_watch(selection)
    }
}

/// Group and plural of a resource path; `None` for paths of other things and for subresources that exchange another kind.
fn resource_of(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let rest: Vec<&str> = parts.collect();
    match rest.as_slice() {
        ["namespaces", _, plural] | ["namespaces", _, plural, _] | ["namespaces", _, plural, _, "status"] => Some((group, plural)),
        [plural] | [plural, _] | [plural, _, "status"] => Some((group, plural)),
        _ => None,
    }
}
