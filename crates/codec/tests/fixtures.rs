//! The round-trip fixtures of the `k8s.io/api` Go module: every kind in JSON, YAML and protobuf, fully populated.
//!
//! The module's version is the one that the schema table was made from; the files are read from Go's module cache.

use std::path::PathBuf;
use std::process::Command;

use api::Object;
use codec::{Strictness, json, protobuf, yaml};
use serde_json::Value;

const MODULE: &str = "k8s.io/api@v0.36.3";

/// The folder of the fixtures; `None` when there is no Go, or the module is neither in its cache nor to be had.
fn fixtures() -> Option<PathBuf> {
    let output = Command::new("go").args(["mod", "download", "-json", MODULE]).output().ok()?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let Some(dir) = answer["Dir"].as_str() else {
        println!("{MODULE} cannot be had: {answer}");
        return None;
    };
    Some(PathBuf::from(dir).join("testdata/HEAD"))
}

fn difference(path: &str, left: &Value, right: &Value, out: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = Value::String("<absent>".into());
                difference(&format!("{path}.{key}"), a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b, out));
        }
        _ if left == right => {}
        _ => out.push(format!("{path}: {left} is not {right}")),
    }
}

fn same(what: &str, got: &Object, expected: &Value, failures: &mut Vec<String>) {
    let mut differences = Vec::new();
    difference("", &Value::Object(got.0.clone()), expected, &mut differences);
    failures.extend(differences.into_iter().take(4).map(|line| format!("{what} {line}")));
}

#[test]
fn every_fixture_is_the_same_in_all_encodings() {
    let Some(dir) = fixtures() else {
        println!("skipped: the fixtures of {MODULE} need the go command and the module");
        return;
    };
    let mut failures = Vec::new();
    let mut count = 0;
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(&dir).expect("the fixtures are there").map(|entry| entry.expect("readable").path()).collect();
    names.sort();
    for path in names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        count += 1;
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = std::fs::read(path).expect("readable");
        let expected: Value = serde_json::from_slice(&text).expect("JSON");
        let (api_version, kind) = (expected["apiVersion"].as_str().unwrap_or(""), expected["kind"].as_str().unwrap_or(""));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        // An event of a watch has no kind of its own.
        let kind = if name == "core.v1.WatchEvent" { "WatchEvent" } else { kind };
        let version = if version.is_empty() { "v1" } else { version };
        let Some(schema) = api::schema::builtin_kind(group, version, kind) else {
            failures.push(format!("{name}: no type"));
            continue;
        };
        let from_json = match json::decode(&text, &schema, Strictness::Strict) {
            Ok(decoded) => {
                let mut object = decoded.object;
                codec::normalize(&mut object, &schema);
                same(&format!("{name} json"), &object, &expected, &mut failures);
                object
            }
            Err(error) => {
                failures.push(format!("{name} json: {error}"));
                continue;
            }
        };
        match yaml::decode(&std::fs::read(path.with_extension("yaml")).expect("readable"), &schema, Strictness::Strict) {
            Ok(decoded) => {
                let mut object = decoded.object;
                codec::normalize(&mut object, &schema);
                same(&format!("{name} yaml"), &object, &expected, &mut failures);
                let written = yaml::encode(&Value::Object(object.0));
                match yaml::parse(written.as_bytes()) {
                    Ok(again) if again == expected => {}
                    Ok(_) => failures.push(format!("{name} yaml: differs after writing")),
                    Err(error) => failures.push(format!("{name} yaml: {error} after writing")),
                }
            }
            Err(error) => failures.push(format!("{name} yaml: {error}")),
        }
        let bytes = std::fs::read(path.with_extension("pb")).expect("readable");
        match protobuf::open(&bytes).and_then(|envelope| protobuf::decode(&envelope, &schema)) {
            Ok(mut object) => {
                codec::normalize(&mut object, &schema);
                same(&format!("{name} pb"), &object, &expected, &mut failures);
            }
            Err(error) => failures.push(format!("{name} pb: {error}")),
        }
        match protobuf::encode(&from_json, &schema) {
            Ok(written) if written == bytes => {}
            Ok(written) => {
                let at = written.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(written.len().min(bytes.len()));
                failures.push(format!("{name} pb: {} bytes written, {} expected, first difference at {at}", written.len(), bytes.len()));
            }
            Err(error) => failures.push(format!("{name} pb: {error} while writing")),
        }
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= 185, "only {count} fixtures");
}
