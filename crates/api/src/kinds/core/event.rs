//! Events of the core group, which is also how events of `events.k8s.io` are stored.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::kind::{Clock, Kind, Selectable};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        selectable: SELECTABLE,
        columns: Some(columns),
        ..Kind::plain("", "Event")
    }
}

const SELECTABLE: &[Selectable] = &[
    Selectable { field: "involvedObject.kind", value: |event| event.text_at(&["involvedObject", "kind"]).into() },
    Selectable { field: "involvedObject.namespace", value: |event| event.text_at(&["involvedObject", "namespace"]).into() },
    Selectable { field: "involvedObject.name", value: |event| event.text_at(&["involvedObject", "name"]).into() },
    Selectable { field: "involvedObject.uid", value: |event| event.text_at(&["involvedObject", "uid"]).into() },
    Selectable { field: "involvedObject.apiVersion", value: |event| event.text_at(&["involvedObject", "apiVersion"]).into() },
    Selectable { field: "involvedObject.resourceVersion", value: |event| event.text_at(&["involvedObject", "resourceVersion"]).into() },
    Selectable { field: "involvedObject.fieldPath", value: |event| event.text_at(&["involvedObject", "fieldPath"]).into() },
    Selectable { field: "reason", value: |event| event.text_at(&["reason"]).into() },
    Selectable { field: "reportingComponent", value: |event| event.text_at(&["reportingComponent"]).into() },
    Selectable {
        field: "source",
        value: |event| match event.text_at(&["source", "component"]) {
            "" => event.text_at(&["reportingComponent"]).into(),
            component => component.into(),
        },
    },
    Selectable { field: "type", value: |event| event.text_at(&["type"]).into() },
];

fn validate(event: &Object, causes: &mut Causes) {
    validate_as_ever(event, event.map("involvedObject").text("namespace"), "reportingComponent", event.text("message"), causes);
}

/// What holds for events in either form. Those with a time of their own are of the newer form and must say who reports what.
pub fn validate_as_ever(event: &Object, involved: &str, reporter: &str, message: &str, causes: &mut Causes) {
    let (own, newer) = (event.namespace(), !event.text("eventTime").is_empty());
    let fits = match involved {
        "" => matches!(own, "" | "default") || (newer && own == "kube-system"),
        other => newer || own == other,
    };
    if !fits {
        causes.invalid(&Path::root("involvedObject").field("namespace").text(), &involved.into(), "does not match event.namespace");
    }
    if newer {
        let mut needed = |field: &str, limit: Option<usize>| {
            let text = event.text(field);
            if text.is_empty() {
                causes.required(field, "");
            }
            match limit {
                Some(limit) if text.len() > limit => causes.invalid(field, &"".into(), &format!("can have at most {limit} characters")),
                Some(_) => {}
                None => {
                    for error in crate::names::qualified_name_errors(text) {
                        causes.invalid(field, &text.into(), &error);
                    }
                }
            }
        };
        needed(reporter, None);
        needed("reportingInstance", Some(128));
        needed("action", Some(128));
        needed("reason", Some(128));
        if message.len() > 1024 {
            causes.invalid("message", &"".into(), "can have at most 1024 characters");
        }
    }
}

/// All cells of an event in either form.
pub fn columns(event: &Object, clock: &Clock) -> Vec<Value> {
    let either =
        |one: &str, other: &str| if event.text(one).is_empty() { event.text(other).to_owned() } else { event.text(one).to_owned() };
    let mut first = either("firstTimestamp", "deprecatedFirstTimestamp");
    if first.is_empty() {
        first = event.text("eventTime").to_owned();
    }
    let mut last = either("lastTimestamp", "deprecatedLastTimestamp");
    if last.is_empty() {
        last.clone_from(&first);
    }
    let mut count = event.int("count").or(event.int("deprecatedCount")).unwrap_or(0).max(1);
    if let Some(series) = event.object("series") {
        last = series.text("lastObservedTime").to_owned();
        count = series.int("count").unwrap_or(0);
    }
    let object = event.object("involvedObject").unwrap_or_else(|| event.map("regarding"));
    let kind = object.text("kind").to_lowercase();
    let target = if object.text("name").is_empty() { kind } else { format!("{kind}/{}", object.text("name")) };
    let message = either("message", "note");
    vec![
        print::since(&last, clock).into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source(event).into(),
        message.trim().into(),
        print::since(&first, clock).into(),
        count.into(),
        event.name().into(),
    ]
}

fn source(event: &Object) -> String {
    let source = event.object("source").unwrap_or_else(|| event.map("deprecatedSource"));
    let pick = |map: &Map<String, Value>, field: &str, others: [&str; 2]| {
        let mut texts = vec![map.text(field).to_owned()];
        texts.extend(others.iter().map(|other| event.text(other).to_owned()));
        texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    };
    let component = pick(source, "component", ["reportingComponent", "reportingController"]);
    let host = pick(source, "host", ["reportingInstance", ""]);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}
