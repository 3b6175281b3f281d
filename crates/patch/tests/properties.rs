//! Laws of patching over arbitrary configurations.

use api::Object;
use api::schema::{TypeRef, builtin_kind};
use patch::{Managed, ManagedBy, managed, merge_patch, strategic};
use proptest::prelude::*;
use serde_json::{Value, json};

struct Kind(TypeRef);

impl Managed for Kind {
    fn schema(&self, _: &str) -> Option<TypeRef> {
        Some(self.0.clone())
    }

    fn convert(&self, object: &Object, _: &str) -> Option<Object> {
        Some(object.clone())
    }

    fn reset(&self, _: &str) -> Vec<Vec<&'static str>> {
        vec![vec!["status"]]
    }
}

fn kind() -> Kind {
    Kind(builtin_kind("apps", "v1", "Deployment").expect("the table has deployments"))
}

fn by<'a>(manager: &'a str, time: &'a str) -> ManagedBy<'a> {
    ManagedBy { manager, api_version: "apps/v1", subresource: "", time }
}

/// Configurations that overlap in many ways: replicas, labels, containers with ports and environment, finalizers.
fn config() -> impl Strategy<Value = Object> {
    let container = (
        "[a-c]",
        proptest::option::of("[x-z]"),
        proptest::collection::btree_set(80..83i64, 0..3),
        proptest::collection::btree_map("[A-C]", "[0-2]", 0..3),
    )
        .prop_map(|(name, image, ports, env)| {
            let mut container = json!({"name": name});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            if !ports.is_empty() {
                container["ports"] = ports.iter().map(|port| json!({"containerPort": port, "protocol": "TCP"})).collect();
            }
            if !env.is_empty() {
                container["env"] = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            }
            container
        });
    let containers = proptest::collection::vec(container, 0..4).prop_map(|mut list| {
        let mut seen = std::collections::HashSet::new();
        list.retain(|item| seen.insert(item["name"].to_string()));
        list
    });
    let labels = proptest::collection::btree_map("[a-c]", "[0-2]", 0..3);
    let finalizers = proptest::collection::btree_set("[f-h]", 0..3);
    (proptest::option::of(0..3i64), labels, containers, finalizers).prop_map(|(replicas, labels, containers, finalizers)| {
        let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        if let Some(replicas) = replicas {
            value["spec"]["replicas"] = replicas.into();
        }
        if !labels.is_empty() {
            value["metadata"]["labels"] = json!(labels);
        }
        if !containers.is_empty() {
            value["spec"]["template"]["spec"]["containers"] = containers.into();
        }
        if !finalizers.is_empty() {
            value["metadata"]["finalizers"] = json!(finalizers);
        }
        Object::from_value(value).expect("an object")
    })
}

/// Everything that `part` says is in `whole`; lists of the configuration are compared by name, value or port.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => part.iter().all(|part| whole.iter().any(|whole| contains(whole, part))),
        (whole, part) => whole == part,
    }
}

fn managers(object: &Object) -> usize {
    object.at(&["metadata", "managedFields"]).and_then(Value::as_array).map_or(0, Vec::len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn apply_is_idempotent_and_complete(first in config(), second in config(), third in config()) {
        let kind = kind();
        let one = managed::apply(None, &first, &by("one", "t1"), false, &kind).expect("nobody owns anything");
        let two = managed::apply(Some(&one), &second, &by("two", "t2"), true, &kind).expect("forced");
        prop_assert!(contains(&Value::Object(two.0.clone()), &Value::Object(second.0.clone())));
        let again = managed::apply(Some(&two), &second, &by("two", "t3"), false, &kind).expect("what is owned can be applied");
        prop_assert_eq!(&again, &two);
        let changed = managed::apply(Some(&two), &third, &by("two", "t4"), true, &kind).expect("forced");
        prop_assert!(contains(&Value::Object(changed.0.clone()), &Value::Object(third.0.clone())));
        // An applier that goes takes along only what it alone owned.
        let empty = Object::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})).expect("an object");
        let gone = managed::apply(Some(&two), &empty, &by("two", "t5"), false, &kind).expect("nothing to conflict");
        prop_assert!(managers(&gone) <= 1);
        let neither = managed::apply(Some(&gone), &empty, &by("one", "t6"), false, &kind).expect("nothing to conflict");
        prop_assert_eq!(managers(&neither), 0);
        prop_assert_eq!(neither.at(&["spec", "replicas"]), None);
    }

    #[test]
    fn updates_own_what_they_change(first in config(), second in config()) {
        let kind = kind();
        let mut old = first;
        managed::update(None, &mut old, &by("one", "t1"), &kind);
        let mut new = second;
        managed::update(Some(&old), &mut new, &by("two", "t2"), &kind);
        let mut same = new.clone();
        managed::update(Some(&new), &mut same, &by("three", "t3"), &kind);
        prop_assert_eq!(same, new);
    }

    #[test]
    fn merging_twice_is_merging_once(first in config(), second in config()) {
        let kind = kind();
        let (document, patch) = (Value::Object(first.0), Value::Object(second.0));
        let once = strategic::apply(&document, &patch, &kind.0).expect("configurations are patches");
        prop_assert_eq!(strategic::apply(&once, &patch, &kind.0), Ok(once.clone()));
        prop_assert!(contains(&once, &patch));
        let mut merged = document.clone();
        merge_patch::apply(&mut merged, &patch);
        let mut twice = merged.clone();
        merge_patch::apply(&mut twice, &patch);
        prop_assert_eq!(twice, merged);
    }
}
