//! Ownership as the real server records it, and the laws that apply obeys.

use api::schema::{TypeRef, builtin_kind};
use api::{Object, Reason};
use serde_json::{Value, json};

use super::*;

/// A built-in kind in one version.
struct Kind(TypeRef, &'static str);

impl Managed for Kind {
    fn schema(&self, api_version: &str) -> Option<TypeRef> {
        (api_version == self.1).then(|| self.0.clone())
    }

    fn convert(&self, object: &Object, api_version: &str) -> Option<Object> {
        (api_version == self.1).then(|| object.clone())
    }

    fn reset(&self, subresource: &str) -> Vec<Vec<&'static str>> {
        match subresource {
            "status" => vec![vec!["spec"], vec!["metadata", "labels"]],
            _ => vec![vec!["status"]],
        }
    }
}

fn deployments() -> Kind {
    Kind(builtin_kind("apps", "v1", "Deployment").expect("the table has deployments"), "apps/v1")
}

fn by<'a>(manager: &'a str, time: &'a str) -> ManagedBy<'a> {
    ManagedBy { manager, api_version: "apps/v1", subresource: "", time }
}

fn object(value: Value) -> Object {
    Object::from_value(value).expect("tests give objects")
}

/// A deployment's configuration with the given replicas and images by container.
fn config(replicas: Option<i64>, images: &[(&str, &str)]) -> Object {
    let containers: Vec<Value> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
    let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {"template": {"spec": {"containers": containers}}}});
    if let Some(replicas) = replicas {
        value["spec"]["replicas"] = replicas.into();
    }
    object(value)
}

fn managers(object: &Object) -> Vec<String> {
    let entries = object.at(&["metadata", "managedFields"]).and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| format!("{} {}", entry["manager"].as_str().unwrap_or(""), entry["operation"].as_str().unwrap_or("")))
        .collect()
}

fn applied(live: Option<&Object>, config: &Object, manager: &str) -> Object {
    apply(live, config, &by(manager, "2026-01-01T00:00:00Z"), false, &deployments()).expect("the apply fits")
}

#[test]
fn create_records_what_is_there() {
    let mut new = config(Some(1), &[("a", "nginx")]);
    update(None, &mut new, &by("golden", "2026-01-01T00:00:00Z"), &deployments());
    assert_eq!(
        new.at(&["metadata", "managedFields"]),
        Some(&json!([{
            "manager": "golden", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}}
        }]))
    );
    let same = new.clone();
    let mut again = new.clone();
    update(Some(&same), &mut again, &by("other", "2026-02-02T00:00:00Z"), &deployments());
    assert_eq!(again, same);
}

#[test]
fn conflicts_and_force() {
    let live = applied(None, &config(Some(1), &[("a", "1")]), "one");
    let mut scaled = live.clone();
    scaled.map_at_mut(&["spec"]).insert("replicas".into(), 5.into());
    update(Some(&live), &mut scaled, &by("scaler", "2026-01-02T00:00:00Z"), &deployments());
    assert_eq!(managers(&scaled), ["one Apply", "scaler Update"]);
    let error = apply(Some(&scaled), &config(Some(2), &[("a", "1")]), &by("one", "2026-01-03T00:00:00Z"), false, &deployments())
        .expect_err("replicas are owned");
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas");
    let status = error.status();
    assert_eq!((status.code, status.reason), (409, Reason::Conflict));
    assert_eq!(status.details["causes"][0]["field"], ".spec.replicas");
    let forced =
        apply(Some(&scaled), &config(Some(2), &[("a", "1")]), &by("one", "2026-01-03T00:00:00Z"), true, &deployments()).expect("forced");
    assert_eq!(managers(&forced), ["one Apply"]);
    assert_eq!(forced.at(&["spec", "replicas"]), Some(&json!(2)));
    let two = apply(Some(&forced), &config(Some(3), &[("a", "2")]), &by("two", "2026-01-03T00:00:00Z"), false, &deployments())
        .expect_err("both are owned");
    assert_eq!(
        two.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
}

#[test]
fn what_is_no_longer_applied_goes() {
    let live = applied(None, &config(Some(1), &[("a", "1"), ("b", "1")]), "one");
    let less = applied(Some(&live), &config(None, &[("a", "1")]), "one");
    assert_eq!(less.at(&["spec", "template", "spec", "containers"]), Some(&json!([{"name": "a", "image": "1"}])));
    assert_eq!(less.at(&["spec", "replicas"]), None);
    // Shared with another applier, it stays.
    let shared = applied(Some(&live), &config(Some(1), &[]), "two");
    let less = applied(Some(&shared), &config(None, &[("a", "1")]), "one");
    assert_eq!(less.at(&["spec", "replicas"]), Some(&json!(1)));
    // Who has changed nothing yet has no time, and stands first.
    assert_eq!(managers(&less), ["two Apply", "one Apply"]);
    // An applier that applies nothing any more is forgotten.
    let none = applied(Some(&less), &object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})), "two");
    assert_eq!(managers(&none), ["one Apply"]);
}

#[test]
fn applying_twice_changes_nothing() {
    let live = applied(None, &config(Some(1), &[("a", "1"), ("b", "2")]), "one");
    let again = apply(Some(&live), &config(Some(1), &[("a", "1"), ("b", "2")]), &by("one", "2027-01-01T00:00:00Z"), false, &deployments());
    assert_eq!(again, Ok(live));
}

#[test]
fn client_side_apply_is_taken_over() {
    let mut live = config(Some(1), &[("a", "1")]);
    let text = Value::Object(live.0.clone()).to_string();
    live.map_at_mut(&["metadata", "annotations"]).insert(LAST_APPLIED.into(), text.into());
    update(None, &mut live, &by("kubectl-client-side-apply", "2026-01-01T00:00:00Z"), &deployments());
    let new = config(Some(3), &[("a", "1")]);
    assert!(apply(Some(&live), &new, &by("someone", "2026-01-02T00:00:00Z"), false, &deployments()).is_err());
    let taken = apply(Some(&live), &new, &by("kubectl", "2026-01-02T00:00:00Z"), false, &deployments()).expect("kubectl may take over");
    assert_eq!(taken.at(&["spec", "replicas"]), Some(&json!(3)));
    assert!(taken.annotation(LAST_APPLIED).is_some_and(|text| text.contains("\"replicas\":3") && text.ends_with('\n')));
}

#[test]
fn bad_configurations_are_refused() {
    let kind = deployments();
    let refuse = |value: Value| match apply(None, &object(value), &by("one", "t"), false, &kind) {
        Err(ApplyError::Refused(status)) => (status.code, status.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(refuse(json!({"apiVersion": "apps/v1beta1"})).0, 400);
    assert_eq!(
        refuse(json!({"apiVersion": "apps/v1", "metadata": {"managedFields": []}})),
        (400, "metadata.managedFields must be nil".into())
    );
    let (code, message) =
        refuse(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {"foo": 1}}));
    assert_eq!(
        (code, message.as_str()),
        (500, "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema")
    );
    let (_, message) = refuse(
        json!({"apiVersion": "apps/v1", "spec": {"replicas": "x", "template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
    );
    assert!(message.contains(".spec.replicas: expected numeric (int or float), got string"), "{message}");
    assert!(message.contains(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"), "{message}");
}

#[test]
fn order_of_lists() {
    let live = applied(None, &config(None, &[("a", "1"), ("b", "1"), ("c", "1")]), "one");
    let names = |object: &Object| -> String {
        let list = object.at(&["spec", "template", "spec", "containers"]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
    };
    for (other, expected) in [(&["d"][..], "abcd"), (&["c", "a"], "bca"), (&["b", "x"], "abcx"), (&["x", "b"], "axbc")] {
        let images: Vec<(&str, &str)> = other.iter().map(|name| (*name, "1")).collect();
        let merged = applied(Some(&live), &config(None, &images), "two");
        assert_eq!(names(&merged), expected, "{other:?}");
    }
}

#[test]
fn many_updaters_are_merged() {
    let mut live = config(Some(0), &[("a", "1")]);
    update(None, &mut live, &by("m0", "2026-01-01T00:00:00Z"), &deployments());
    for index in 1..20 {
        let mut new = live.clone();
        new.map_at_mut(&["metadata", "labels"]).insert(format!("l{index}"), "x".into());
        let (manager, time) = (format!("m{index}"), format!("2026-01-{:02}T00:00:00Z", index + 1));
        update(Some(&live), &mut new, &by(&manager, &time), &deployments());
        live = new;
    }
    let managers = managers(&live);
    assert_eq!(managers.len(), 10, "{managers:?}");
    assert!(managers.contains(&"ancient-changes Update".to_owned()) && managers.contains(&"m19 Update".to_owned()));
}

#[test]
fn policies_merge_configurations() {
    let schema = deployments().0;
    let live = config(Some(1), &[("a", "1"), ("b", "1")]);
    let merged = merge_configuration(&live, &config(Some(2), &[("b", "2")]), &schema).expect("the configuration fits");
    assert_eq!(merged.at(&["spec", "replicas"]), Some(&json!(2)));
    assert_eq!(
        merged.at(&["spec", "template", "spec", "containers"]),
        Some(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]))
    );
    let selector = object(json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}));
    assert_eq!(merge_configuration(&live, &selector, &schema), Err("may not mutate atomic arrays, maps or structs: .spec.selector".into()));
    assert!(merge_configuration(&live, &object(json!({"spec": {"nope": 1}})), &schema).is_err());
}
