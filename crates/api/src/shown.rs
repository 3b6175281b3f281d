//! Values as the real server shows them inside messages: by its internal structs, whose members bear Go's names, come in Go's
//! order and are there even when nobody set them. The table beside this file has the structs that messages show.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

/// One value on its way to text.
enum Shown {
    Scalar(String),
    List(Vec<Shown>),
    Members(Vec<(String, Shown)>),
}

/// One line of the table: a member with its name, kind and whether it is left out when empty, or the members of another struct.
enum Member {
    Own(&'static str, &'static str, bool),
    Embedded(&'static str),
}

fn structs() -> &'static HashMap<&'static str, Vec<Member>> {
    static ALL: OnceLock<HashMap<&str, Vec<Member>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: HashMap<&str, Vec<Member>> = HashMap::new();
        let mut at = "";
        for line in include_str!("shown.txt").lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["T", name] => at = name,
                ["E", name] => all.entry(at).or_default().push(Member::Embedded(name)),
                ["F", name, kind] => all.entry(at).or_default().push(Member::Own(name, kind, false)),
                ["F", name, kind, "o"] => all.entry(at).or_default().push(Member::Own(name, kind, true)),
                _ => unreachable!("the table has three sorts of lines"),
            }
        }
        all
    })
}

/// A value of a struct of the table on one line, for example of `core.Taint`.
pub fn internal(name: &str, value: &Value) -> String {
    let mut out = String::new();
    compact(&shown(name, value), &mut out);
    out
}

fn shown(kind: &str, value: &Value) -> Shown {
    if let Some(inner) = kind.strip_prefix('*') {
        return if value.is_null() { Shown::Scalar("null".into()) } else { shown(inner, value) };
    }
    if let Some(inner) = kind.strip_prefix('[') {
        return match value {
            Value::Array(list) => Shown::List(list.iter().map(|one| shown(inner, one)).collect()),
            _ => Shown::Scalar("null".into()),
        };
    }
    if let Some(inner) = kind.strip_prefix('{') {
        return match value {
            Value::Object(map) => Shown::Members(map.iter().map(|(key, one)| (key.clone(), shown(inner, one))).collect()),
            _ => Shown::Scalar("null".into()),
        };
    }
    let none = match kind {
        "s" => "\"\"",
        "i" | "o" => "0",
        "b" => "false",
        "q" => "\"0\"",
        "t" | "y" => "null",
        _ => {
            let mut members = Vec::new();
            add_members(kind, value, &mut members);
            return Shown::Members(members);
        }
    };
    Shown::Scalar(if value.is_null() { none.to_owned() } else { escaped(&value.to_string()) })
}

fn add_members(name: &str, value: &Value, members: &mut Vec<(String, Shown)>) {
    let empty = Map::new();
    let map = value.as_object().unwrap_or(&empty);
    for member in structs().get(name).into_iter().flatten() {
        match member {
            Member::Embedded("meta.ObjectMeta") => {
                add_members("meta.ObjectMeta", &map.get("metadata").cloned().unwrap_or_default(), members)
            }
            Member::Embedded(other) => add_members(other, value, members),
            Member::Own(own, kind, omitted) => {
                let found = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(own)).map_or(&Value::Null, |(_, value)| value);
                let moved = (name == "core.PodSpec" && *own == "SecurityContext").then(|| with_host(found, map));
                let found = moved.as_ref().unwrap_or(found);
                if *omitted && is_empty(found) {
                    continue;
                }
                members.push(((*own).to_owned(), shown(kind, found)));
            }
        }
    }
}

/// What a pod takes from its host is part of the security context inside the real server.
fn with_host(context: &Value, spec: &Map<String, Value>) -> Value {
    let mut all = context.clone();
    for field in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = spec.get(field) {
            if all.is_null() {
                all = Value::Object(Map::new());
            }
            all[field] = value.clone();
        }
    }
    all
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Go writes what would mean something in HTML by its code.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn compact(value: &Shown, out: &mut String) {
    match value {
        Shown::Scalar(text) => out.push_str(text),
        Shown::List(list) => {
            out.push('[');
            for (at, one) in list.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                compact(one, out);
            }
            out.push(']');
        }
        Shown::Members(members) => {
            out.push('{');
            for (at, (name, one)) in members.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                compact(one, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structs_in_their_own_words() {
        for (name, value, expected) in [
            ("core.Taint", json!({"key": "a", "effect": "NoSchedule"}), r#"{"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}"#),
            (
                "rbac.RoleRef",
                json!({"apiGroup": "g", "kind": "Role", "name": "<n>"}),
                r#"{"APIGroup":"g","Kind":"Role","Name":"\u003cn\u003e"}"#,
            ),
            (
                "apps.DeploymentStrategy",
                json!({"type": "X", "rollingUpdate": {"maxSurge": "a", "maxUnavailable": 1}}),
                r#"{"Type":"X","RollingUpdate":{"MaxUnavailable":1,"MaxSurge":"a"}}"#,
            ),
            ("meta.LabelSelector", json!({"matchLabels": {"a": "b"}}), r#"{"matchLabels":{"a":"b"}}"#),
        ] {
            assert_eq!(internal(name, &value), expected);
        }
    }
}
