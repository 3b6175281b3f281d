//! Whether a pod may be on a node by its node name, selector, affinity and tolerations, without looking at resources.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Whether name, selector and required affinity allow the node.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let name = node.metadata.name.as_deref().unwrap_or("");
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches_term(term, name, &label)))
}

/// Whether one term selects a node; an empty term selects none.
fn matches_term<'a>(term: &NodeSelectorTerm, name: &'a str, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| (key == "metadata.name").then_some(name);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| matches(one, label(&one.key)))
        && fields.iter().all(|one| matches(one, field(&one.key)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|one| one == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|one| one != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether all taints of the node with one of these effects are tolerated.
pub fn tolerates(spec: &PodSpec, node: &Node, effects: &[&str]) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let covered = |taint: &Taint| tolerations.iter().any(|toleration| covers(toleration, taint));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| effects.contains(&taint.effect.as_str())).all(covered)
}

/// Whether a toleration covers a taint.
pub fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, wanted: bool) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}}})).unwrap();
        let mut spec = spec;
        spec["containers"] = json!([]);
        assert_eq!(selects(&serde_json::from_value(spec.clone()).unwrap(), &node), wanted, "{spec}");
    }

    fn affinity(term: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    }

    #[test]
    fn nodes_are_selected() {
        check(json!({}), true);
        check(json!({"nodeName": "m"}), false);
        check(json!({"nodeSelector": {"zone": "a"}}), true);
        check(json!({"nodeSelector": {"zone": "b"}}), false);
        let expression = |key: &str, operator: &str, values: Value| {
            affinity(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        check(expression("zone", "In", json!(["a", "b"])), true);
        check(expression("zone", "NotIn", json!(["a"])), false);
        check(expression("none", "DoesNotExist", json!([])), true);
        check(expression("size", "Gt", json!(["4"])), true);
        check(expression("size", "Lt", json!(["4"])), false);
        check(affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]})), true);
        check(affinity(json!({})), false);
    }
}
