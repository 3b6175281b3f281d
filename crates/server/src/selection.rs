//! Which objects a list, watch or collection deletion means: selectors matched on headers, without decoding.

use std::sync::Arc;

use api::Status;
use api::field_selector::FieldSelector;
use api::label_selector::LabelSelector;
use store::{Entry, Filter, Prefix};

use crate::catalog::Served;
use crate::query::Query;
use crate::steps::convert;

/// Selectors of a request and the narrowest set of keys that holds everything they match.
#[derive(Clone)]
pub struct Selected {
    /// Keys.
    pub prefix: Prefix,
    /// What wakes a watch.
    pub filter: Filter,
    labels: LabelSelector,
    fields: FieldSelector,
    /// Selectable fields of a custom resource, which headers do not have.
    decoded: Option<Arc<Served>>,
}

/// Names of fields in `events.k8s.io/v1` and of the same fields as they are stored.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];

impl Selected {
    /// Reads the selectors of a query.
    ///
    /// # Errors
    /// 400 for a selector that cannot be parsed or a field that cannot be selected by.
    pub fn read(served: &Arc<Served>, namespace: &str, query: &Query) -> Result<Selected, Status> {
        Selected::new(served, namespace, query.text("labelSelector"), query.text("fieldSelector"))
    }

    /// The selection of these texts.
    ///
    /// # Errors
    /// As `read`.
    pub fn new(served: &Arc<Served>, namespace: &str, labels: &str, fields: &str) -> Result<Selected, Status> {
        let labels = LabelSelector::parse(labels).map_err(Status::bad_request)?;
        let mut fields = FieldSelector::parse(fields).map_err(Status::bad_request)?;
        let mut decoded = None;
        for one in &mut fields.0 {
            // Events of the newer group are not known by the older names.
            let known = &*served.def.group != "events.k8s.io" || !EVENT_FIELDS.iter().any(|(_, stored)| *stored == one.field);
            if &*served.def.group == "events.k8s.io" {
                if let Some((_, stored)) = EVENT_FIELDS.iter().find(|(name, _)| *name == one.field) {
                    one.field = (*stored).to_owned();
                }
            }
            match selectable(served, &one.field) {
                _ if !known => return Err(Status::bad_request(format!("field label not supported: {}", one.field))),
                Some(false) => {}
                Some(true) => decoded = Some(served.clone()),
                None => return Err(not_selectable(served, &one.field)),
            }
        }
        let prefix = prefix(served, namespace, &fields);
        let node = fields.exact("spec.nodeName").filter(|_| &*served.store == "/registry/pods/");
        let filter = node.map_or(Filter::All, |node| Filter::Field { name: "spec.nodeName".into(), value: node.into() });
        Ok(Selected { prefix, filter, labels, fields, decoded })
    }

    /// Whether anything but the namespace narrows the selection.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.0.is_empty()
    }

    /// Whether an object is meant.
    pub fn matches(&self, entry: &Entry) -> bool {
        let header = &entry.header;
        if !self.labels.is_everything() && !self.labels.matches_sorted(&header.labels) {
            return false;
        }
        if self.fields.0.is_empty() {
            return true;
        }
        let object = self.decoded.as_ref().and_then(|served| convert::read(served, entry).ok());
        self.fields.0.iter().all(|one| {
            let value: std::borrow::Cow<'_, str> = match one.field.as_str() {
                "metadata.name" => (&*header.name).into(),
                "metadata.namespace" => (&*header.namespace).into(),
                field => match &object {
                    Some(object) => custom_value(object, field).into(),
                    None => header.field(field).into(),
                },
            };
            (*value == one.value) == one.equal
        })
    }
}

/// Whether a field can be selected by, and whether that needs the decoded object.
fn selectable(served: &Served, field: &str) -> Option<bool> {
    if matches!(field, "metadata.name" | "metadata.namespace") {
        return Some(false);
    }
    if let Some(custom) = &served.custom {
        return custom.selectable.iter().any(|path| path.trim_start_matches('.') == field).then_some(true);
    }
    if without_fields(served) {
        return None;
    }
    served.kind.selectable.iter().chain(stored_kind(served)).any(|one| one.field == field).then_some(false)
}

/// `events.k8s.io` selects by the fields of the stored kind.
fn stored_kind(served: &Served) -> &'static [api::kinds::Selectable] {
    if &*served.def.group == "events.k8s.io" { api::kinds::find("", "Event").selectable } else { &[] }
}

fn custom_value(object: &api::Object, field: &str) -> String {
    let path: Vec<&str> = field.split('.').collect();
    match object.at(&path) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Kinds whose fields are kept for selection and whose versions have no names for them.
fn without_fields(served: &Served) -> bool {
    matches!((&*served.def.group, &*served.def.plural), ("apps", "replicasets") | ("networking.k8s.io", "ipaddresses"))
}

fn not_selectable(served: &Served, field: &str) -> Status {
    if served.custom.is_none() && &*served.def.group == "batch" && &*served.def.plural == "jobs" {
        return Status::bad_request(format!("field label {field:?} not supported for Job"));
    }
    let selectable = served.custom.as_ref().is_some_and(|custom| !custom.selectable.is_empty());
    if selectable {
        return Status::bad_request(format!("field label not supported: {field}"));
    }
    if served.custom.is_some() || without_fields(served) || served.kind.selectable.is_empty() {
        return Status::bad_request(format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""));
    }
    if &*served.def.plural == "resourceslices" {
        let (version, kind) = (&served.api_version, &served.def.kind);
        return Status::bad_request(format!("field label not supported for {version}, Kind={kind}: {field}"));
    }
    Status::bad_request(format!("field label not supported: {field}"))
}

fn prefix(served: &Served, namespace: &str, fields: &FieldSelector) -> Prefix {
    let name = fields.exact("metadata.name");
    if !served.def.namespaced() {
        return name.map_or_else(|| served.store.all(), |name| served.store.key(name).alone());
    }
    let namespace = if namespace.is_empty() { fields.exact("metadata.namespace").unwrap_or("") } else { namespace };
    match (namespace, name) {
        ("", _) => served.store.all(),
        (namespace, Some(name)) => served.store.key(format!("{namespace}/{name}")).alone(),
        (namespace, None) => served.store.namespace(namespace),
    }
}
