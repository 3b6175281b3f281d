//! Calls from components of the same process, each bound to its user. Lists and watches hand out the store's own entries.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use client::{Change, ListWatch, Selection, Transport};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Request, Response};
use store::{Changes, Event, EventKind, Revision, WatchError};

use crate::attributes::Attributes;
use crate::audit;
use crate::failure;
use crate::pipeline;
use crate::selection::Selected;
use crate::server::Server;
use crate::steps::{admit, authorize};
use crate::user::User;
use crate::verbs::watch::{restamped, transition};

/// The transport of one user in this process.
pub struct InProcess {
    server: Arc<Server>,
    user: Arc<User>,
}

/// The path under which the same could be asked over the network, for the audit log.
fn selection_uri(selection: &Selection, verb: &str) -> String {
    let resource = &selection.resource;
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let place = selection.namespace.as_ref().map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let watch = if verb == "watch" { "?watch=true" } else { "" };
    format!("{root}/{}{place}/{}{watch}", resource.version, resource.plural)
}

/// What a list or watch asks for.
fn attributes(selection: &Selection, verb: &'static str) -> Attributes {
    let fields = api::field_selector::FieldSelector::parse(&selection.fields).ok();
    let resource = &selection.resource;
    Attributes {
        verb,
        group: resource.group.to_string(),
        version: resource.version.to_string(),
        resource: resource.plural.to_string(),
        namespace: selection.namespace.clone().unwrap_or_default(),
        name: fields.and_then(|fields| fields.exact("metadata.name").map(str::to_owned)).unwrap_or_default(),
        ..Attributes::default()
    }
}

impl InProcess {
    /// A transport that acts as this user.
    pub fn new(server: Arc<Server>, mut user: User) -> InProcess {
        user.mark_authenticated();
        InProcess { server, user: Arc::new(user) }
    }

    fn start(&self, selection: &Selection) -> Result<ListWatch, Status> {
        let resource = &selection.resource;
        let namespace = selection.namespace.clone().unwrap_or_default();
        for verb in ["list", "watch"] {
            let attributes = attributes(selection, verb);
            authorize::check(&self.server, &self.user, &attributes)?;
            if let Some(audit) = &self.server.audit {
                audit::Trail::note(audit, &self.user, &attributes, selection_uri(selection, verb));
            }
        }
        let catalog = self.server.catalog();
        let served = catalog.find(&resource.group, &resource.version, &resource.plural).ok_or_else(failure::no_such_resource)?;
        let selected = Selected::new(served, &namespace, &selection.labels, &selection.fields)?;
        let snapshot = self.server.store.mvcc().snapshot(&selected.prefix.kind);
        let initial = snapshot.under(&selected.prefix).filter(|entry| selected.matches(entry)).cloned().collect();
        let revision = snapshot.revision();
        let changes = self.server.store.watch(selected.prefix.clone(), revision, selected.filter.clone());
        let changes = changes.map_err(|error| ended(error, revision))?;
        let state = Following { changes, selected, pending: Vec::new().into_iter(), over: false };
        let changes = stream::unfold(state, |mut state| async move { state.next().await.map(|change| (change, state)) });
        Ok(ListWatch { initial, revision, changes: Box::pin(changes) })
    }
}

impl Transport for InProcess {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        Box::pin(pipeline::call_in_process(&self.server, &self.user, request))
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        Box::pin(async move {
            let _seat = admit::admit_own(&self.server, &self.user, &attributes(&selection, "list")).await?;
            self.start(&selection)
        })
    }
}

fn ended(error: WatchError, at: Revision) -> Status {
    match error {
        WatchError::TooOld { floor } => Status::expired(format!("too old resource version: {at} ({floor})")),
        WatchError::Closed => Status::internal("the store is closed"),
    }
}

struct Following {
    changes: Changes,
    selected: Selected,
    pending: std::vec::IntoIter<Arc<Event>>,
    over: bool,
}

impl Following {
    /// The next change; progress is told when a batch brought nothing of the selection.
    async fn next(&mut self) -> Option<Result<Change, Status>> {
        if self.over {
            return None;
        }
        loop {
            while let Some(event) = self.pending.next() {
                if let Some(change) = change(&self.selected, &event) {
                    return Some(Ok(change));
                }
                if self.pending.len() == 0 {
                    return Some(Ok(Change::Progress(event.revision)));
                }
            }
            match self.changes.next_batch(64).await {
                Ok(batch) => self.pending = batch.into_iter(),
                Err(error) => {
                    self.over = true;
                    return Some(Err(ended(error, self.changes.progress())));
                }
            }
        }
    }
}

fn change(selected: &Selected, event: &Event) -> Option<Change> {
    match transition(selected, event)? {
        "DELETED" if event.kind == EventKind::Put => Some(Change::Deleted(restamped(event).unwrap_or_else(|| event.entry.clone()))),
        "DELETED" => Some(Change::Deleted(event.entry.clone())),
        _ => Some(Change::Put(event.entry.clone())),
    }
}
