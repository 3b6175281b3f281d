//! What hostile bodies may cost: little time and little memory each, whatever they claim to be.

use std::fs;

use http::Method;
use serde_json::json;

mod server_under_test;

use server_under_test::UnderTest;

const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Most memory that a refusal may need beside the body.
const MEMORY_KIB: u64 = 16 << 10;
/// Most time of processors that a refusal may take; code that is not optimized is many times slower.
const MICROS: u64 = if cfg!(debug_assertions) { 150_000 } else { 5_000 };
/// Each is tried so often, and the cheapest counts: the server beside it does other things now and then.
const TRIES: usize = 5;

/// Time that all threads of this process have spent on processors.
fn cpu_micros() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

fn status_kib(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Aliases of aliases: 9^20 values if they were written out.
fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    text
}

/// A field of protobuf that holds bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// A pod in protobuf whose message is `raw`.
fn envelope(raw: &[u8]) -> Vec<u8> {
    let kind = [field(0x0a, b"v1"), field(0x12, b"Pod")].concat();
    [b"k8s\0".to_vec(), field(0x0a, &kind), field(0x12, raw)].concat()
}

#[tokio::test(flavor = "current_thread")]
async fn refusals_are_cheap() {
    let test = UnderTest::start().await;
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "x".repeat(4 << 20)}});
    let cases: Vec<(&str, &str, Method, &str, Vec<u8>, u16)> = vec![
        ("a body over the limit", "/api/v1/namespaces/default/configmaps", Method::POST, JSON, config_map.to_string().into(), 413),
        ("a YAML bomb", PODS, Method::POST, YAML, bomb().into(), 400),
        ("nested lists in JSON", PODS, Method::POST, JSON, "[".repeat(1_000_000).into(), 400),
        ("nested objects in JSON", PODS, Method::POST, JSON, "{\"spec\":".repeat(300_000).into(), 400),
        ("nested lists in YAML", PODS, Method::POST, YAML, "[".repeat(1_000_000).into(), 400),
        ("nested objects in YAML", PODS, Method::POST, YAML, "{a: ".repeat(700_000).into(), 400),
        ("a broken envelope", PODS, Method::POST, PROTOBUF, b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec(), 400),
        ("a length of 2^63", PODS, Method::POST, PROTOBUF, b"k8s\0\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f".to_vec(), 400),
        ("no envelope", PODS, Method::POST, PROTOBUF, vec![0xff; 1 << 20], 400),
        ("a broken message", PODS, Method::POST, PROTOBUF, envelope(&vec![0x0f; 1 << 20]), 400),
        (
            "a nested JSON patch",
            "/api/v1/namespaces/default",
            Method::PATCH,
            "application/json-patch+json",
            "[".repeat(1_000_000).into(),
            400,
        ),
        (
            "a nested merge patch",
            "/api/v1/namespaces/default",
            Method::PATCH,
            "application/merge-patch+json",
            "{\"a\":".repeat(500_000).into(),
            400,
        ),
        (
            "a bomb to be applied",
            "/api/v1/namespaces/default?fieldManager=x",
            Method::PATCH,
            "application/apply-patch+yaml",
            bomb().into(),
            400,
        ),
    ];
    for (what, path, method, content_type, body, expected) in cases {
        let body = bytes::Bytes::from(body);
        let (mut took, mut used) = (u64::MAX, 0);
        for _ in 0..TRIES {
            // The high-water mark of memory starts anew.
            fs::write("/proc/self/clear_refs", "5").unwrap();
            let (memory, cpu) = (status_kib("VmHWM"), cpu_micros());
            let (code, answer) = test.call(method.clone(), path, content_type, body.clone()).await;
            took = took.min(cpu_micros() - cpu);
            used = used.max(status_kib("VmHWM").saturating_sub(memory));
            assert_eq!(code, expected, "{what}: {}", answer["reason"]);
        }
        eprintln!("{what}: {took} us, {used} KiB");
        assert!(took < MICROS, "{what} took {took} us");
        assert!(used < MEMORY_KIB, "{what} needed {used} KiB");
    }
}
