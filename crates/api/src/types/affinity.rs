//! Where a pod may run: node and pod affinity, tolerations, topology spread.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::names;
use crate::path::Path;
use crate::read::Read;

/// Validates `affinity`.
pub fn validate(affinity: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if let Some(node) = affinity.object("nodeAffinity") {
        let at = path.field("nodeAffinity");
        if let Some(required) = node.object("requiredDuringSchedulingIgnoredDuringExecution") {
            validate_node_selector(required, &at.field("requiredDuringSchedulingIgnoredDuringExecution"), causes);
        }
        let list = at.field("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in node.maps("preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
            let at = list.index(index);
            weight(term, &at, causes);
            validate_node_term(term.map("preference"), &at.field("preference"), causes);
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.object(kind) else { continue };
        let at = path.field(kind);
        let list = at.field("requiredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in pods.maps("requiredDuringSchedulingIgnoredDuringExecution").enumerate() {
            validate_pod_term(term, &list.index(index), causes);
        }
        let list = at.field("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in pods.maps("preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
            let at = list.index(index);
            weight(term, &at, causes);
            validate_pod_term(term.map("podAffinityTerm"), &at.field("podAffinityTerm"), causes);
        }
    }
}

fn weight(term: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        causes.bad(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

/// Validates a `NodeSelector`.
pub fn validate_node_selector(selector: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let list = path.field("nodeSelectorTerms");
    if selector.list("nodeSelectorTerms").is_empty() {
        causes.needed(&list, "must have at least one node selector term");
    }
    for (index, term) in selector.maps("nodeSelectorTerms").enumerate() {
        let at = list.index(index);
        validate_node_term(term, &at, causes);
        let expressions = at.field("matchExpressions");
        for (index, one) in term.maps("matchExpressions").enumerate() {
            let at = expressions.index(index);
            let values = at.field("values");
            for (index, value) in one.texts("values").enumerate() {
                causes.each(&values.index(index), value, names::label_value_errors(value));
            }
        }
    }
}

fn validate_node_term(term: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let list = path.field("matchExpressions");
    for (index, one) in term.maps("matchExpressions").enumerate() {
        let at = list.index(index);
        let count = one.list("values").len();
        match one.text("operator") {
            "In" | "NotIn" if count == 0 => causes.needed(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if count > 0 => {
                causes.refused(&at.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                causes.needed(&at.field("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => causes.bad(&at.field("operator"), other, "not a valid selector operator"),
        }
        causes.each(&at.field("key"), one.text("key"), names::qualified_name_errors(one.text("key")));
    }
    let list = path.field("matchFields");
    for (index, one) in term.maps("matchFields").enumerate() {
        let at = list.index(index);
        match one.text("operator") {
            "In" | "NotIn" if one.list("values").len() != 1 => {
                causes.needed(&at.field("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
            }
            "In" | "NotIn" => {}
            other => causes.bad(&at.field("operator"), other, "not a valid selector operator"),
        }
        if one.text("key") != "metadata.name" {
            causes.bad(&at.field("key"), one.text("key"), "not a valid field selector key");
        }
    }
}

fn validate_pod_term(term: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = term.object(field) {
            check::label_selector(selector, &path.field(field), causes);
        }
    }
    for namespace in term.texts("namespaces") {
        causes.each(&path.field("namespace"), namespace, names::label_errors(namespace));
    }
    let key = term.text("topologyKey");
    if key.is_empty() {
        causes.needed(&path.field("topologyKey"), "can not be empty");
    }
    causes.each(&path.field("topologyKey"), key, names::qualified_name_errors(key));
}

/// Validates `tolerations`.
pub fn validate_tolerations(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for (index, one) in spec.maps("tolerations").enumerate() {
        let at = path.index(index);
        let (key, operator, value) = (one.text("key"), one.text("operator"), one.text("value"));
        if !key.is_empty() {
            causes.each(&at.field("key"), key, names::qualified_name_errors(key));
        }
        if key.is_empty() && operator != "Exists" {
            causes.bad(
                &at.field("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if one.has("tolerationSeconds") && one.text("effect") != "NoExecute" {
            causes.bad(&at.field("effect"), one.text("effect"), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => causes.each(&at.field("operator"), value, names::label_value_errors(value)),
            "Exists" => {
                if !value.is_empty() {
                    causes.bad(&at.field("operator"), value, "value must be empty when `operator` is 'Exists'");
                }
            }
            "Lt" | "Gt" => causes.unsupported(&at.field("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
            other => causes.unsupported(&at.field("operator"), other, &["Equal", "Exists"]),
        }
        if !one.text("effect").is_empty() {
            taint_effect(one.text("effect"), &at.field("effect"), causes);
        }
    }
}

/// Validates the effect of a taint or toleration.
pub fn taint_effect(effect: &str, path: &Path, causes: &mut Causes) {
    if effect.is_empty() {
        causes.needed(path, "");
    } else if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        causes.unsupported(path, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

/// Validates `topologySpreadConstraints`.
pub fn validate_spread(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, one) in spec.maps("topologySpreadConstraints").enumerate() {
        let at = path.index(index);
        let skew = one.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            causes.bad(&at.field("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (one.text("topologyKey"), one.text("whenUnsatisfiable"));
        if key.is_empty() {
            causes.needed(&at.field("topologyKey"), "can not be empty");
        }
        if !one.has("labelSelector") && !one.list("matchLabelKeys").is_empty() {
            causes.refused(&at.field("matchLabelKeys"), "must not be specified when labelSelector is not set");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            causes.unsupported(&at.field("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if seen.contains(&(key, action)) {
            causes.twice(&at.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        seen.push((key, action));
        if let Some(domains) = one.int("minDomains") {
            if domains <= 0 {
                causes.bad(&at.field("minDomains"), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                causes.bad(&at.field("minDomains"), domains, &text);
            }
        }
        causes.one_of(one, "nodeAffinityPolicy", &at, &["Honor", "Ignore"]);
        causes.one_of(one, "nodeTaintsPolicy", &at, &["Honor", "Ignore"]);
        if let Some(selector) = one.object("labelSelector") {
            check::label_selector(selector, &at.field("labelSelector"), causes);
        }
    }
}
