//! `/metrics` of a real server: every line is the text format, and the names that dashboards ask for are there.

mod server_under_test;

use std::collections::BTreeMap;

use client::Transport;
use http::Request;
use serde_json::json;
use server::User;
use server_under_test::UnderTest;

/// A sample: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads a text as a collector does, and panics at the first line that it would refuse.
fn parse(text: &str) -> Vec<Sample> {
    let (mut kinds, mut samples) = (BTreeMap::new(), Vec::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "a metric stands once: {line}");
            current = name.to_owned();
        } else if line.starts_with('#') {
            assert!(line.starts_with("# HELP "), "{line}");
        } else {
            let sample = sample(line);
            let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| sample.0.strip_suffix(end) == Some(&current));
            let expected = if kinds.get(&current).is_some_and(|kind| kind == "histogram") { of_histogram } else { sample.0 == current };
            assert!(expected, "a sample of {current}: {line}");
            assert!(sample.2 >= 0.0, "{line}");
            samples.push(sample);
        }
    }
    samples
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let mut labels = BTreeMap::new();
    let name = match series.split_once('{') {
        None => series,
        Some((name, rest)) => {
            let mut rest = rest.strip_suffix('}').expect(line);
            while !rest.is_empty() {
                let (label, quoted) = rest.split_once("=\"").expect(line);
                let end = quoted.match_indices('"').find(|(at, _)| !quoted[..*at].ends_with('\\')).expect(line).0;
                assert!(labels.insert(label.to_owned(), quoted[..end].to_owned()).is_none(), "{line}");
                rest = quoted[end + 1..].trim_start_matches(',');
            }
            name
        }
    };
    assert!(name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_'), "{line}");
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
    (name.to_owned(), labels, value)
}

#[tokio::test]
async fn a_scrape_is_the_text_format_and_has_the_usual_names() {
    let under_test = UnderTest::start().await;
    under_test.server.metric_sources().set("more", |out| client::metrics::single(out, "more_of_the_process", "gauge", "Help.", 7));
    under_test.create("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "counted"}})).await;
    let admin = under_test.server.in_process(User::new("admin", &["system:masters"]));
    let reply = admin.call(Request::get("/metrics").body(bytes::Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(reply.headers()["content-type"], client::metrics::CONTENT_TYPE);
    let samples = parse(std::str::from_utf8(reply.body()).unwrap());
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let found = samples.iter().find(|(known, labels, _)| {
            known == name && wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|known| known == value))
        });
        found.unwrap_or_else(|| panic!("no {name} {wanted:?}")).2
    };
    let created = [("resource", "secrets"), ("verb", "POST"), ("code", "201")];
    assert_eq!(value("apiserver_request_total", &created), 1.0);
    assert_eq!(value("apiserver_request_duration_seconds_count", &[("resource", "secrets"), ("verb", "POST")]), 1.0);
    let took = value("apiserver_request_duration_seconds_sum", &[("resource", "secrets"), ("verb", "POST")]);
    assert!(took > 0.0 && took < 60.0, "{took}");
    assert!(value("apiserver_current_inflight_requests", &[("request_kind", "readOnly")]) >= 1.0, "this one");
    assert_eq!(value("apiserver_resource_objects", &[("resource", "secrets"), ("group", "")]), 1.0);
    assert!(value("authorization_attempts_total", &[("result", "allowed")]) > 1.0);
    assert!(value("authentication_attempts", &[("result", "success")]) > 1.0);
    assert_eq!(value("apiserver_tls_handshake_errors_total", &[]), 0.0);
    assert!(value("apiserver_flowcontrol_dispatched_requests_total", &[("flow_schema", "exempt"), ("priority_level", "exempt")]) > 1.0);
    assert!(value("apiserver_flowcontrol_nominal_limit_seats", &[("priority_level", "workload-low")]) > 100.0);
    let committed = value("knarr_store_committed_total", &[]);
    assert!(committed > 0.0 && committed == value("knarr_store_commit_duration_seconds_count", &[]));
    assert_eq!(value("knarr_store_commit_duration_seconds_bucket", &[("le", "+Inf")]), committed);
    assert!(value("knarr_store_batch_size_sum", &[]) >= value("knarr_store_batch_size_count", &[]));
    assert!(value("knarr_store_sync_duration_seconds_count", &[]) >= 1.0);
    for name in ["revision", "objects", "live_bytes", "history_floor", "history_events", "history_bytes", "watchers", "log_bytes"]
        .map(|name| format!("knarr_store_{name}"))
    {
        value(&name, &[]);
    }
    assert!(value("knarr_store_revision", &[]) >= value("knarr_store_history_floor", &[]));
    assert_eq!(value("more_of_the_process", &[]), 7.0);
    // Buckets never fall.
    let mut last: (String, f64) = Default::default();
    for (name, labels, count) in samples.iter().filter(|(name, ..)| name.ends_with("_bucket")) {
        let series: Vec<&String> = labels.iter().filter(|(label, _)| *label != "le").map(|(_, value)| value).collect();
        let series = format!("{name}{series:?}");
        assert!(last.0 != series || last.1 <= *count, "{series}");
        last = (series, *count);
    }
}

#[tokio::test]
async fn parts_of_health_are_counted() {
    let under_test = UnderTest::start().await;
    let admin = under_test.server.in_process(User::new("admin", &["system:masters"]));
    for path in ["/livez", "/readyz?verbose", "/readyz?exclude=log", "/readyz/ping"] {
        admin.call(Request::get(path).body(bytes::Bytes::new()).unwrap()).await.unwrap();
    }
    let reply = admin.call(Request::get("/metrics/slis").body(bytes::Bytes::new()).unwrap()).await.unwrap();
    let samples = parse(std::str::from_utf8(reply.body()).unwrap());
    let count = |name: &str, kind: &str| {
        let found = samples.iter().find(|(metric, labels, _)| {
            metric == "kubernetes_healthchecks_total" && labels["name"] == name && labels["type"] == kind && labels["status"] == "success"
        });
        found.map_or(0.0, |(.., value)| *value)
    };
    // A part that is asked for alone, or left out, is not counted.
    assert_eq!((count("ping", "livez"), count("ping", "readyz"), count("log", "readyz"), count("shutdown", "livez")), (1.0, 2.0, 1.0, 0.0));
    let etcd = samples.iter().find(|(metric, labels, _)| metric == "kubernetes_healthcheck" && labels["name"] == "etcd").unwrap();
    assert_eq!(etcd.2, 1.0);
}
