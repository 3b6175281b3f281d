//! `/configz`: the KubeletConfiguration in force. What the kubelet follows is told as it follows it, wherever it was said; of the
//! rest, what its file says, and where that says nothing, what the real kubelet would take.

use std::time::Duration;

use api::Quantity;
use api::quantity::Format;
use serde_json::{Map, Value, json};

use crate::Kubelet;
use crate::config::Config;
use crate::eviction::{Amount, Threshold};
use crate::image_access;
use crate::swap::Behavior;

/// The page.
pub fn page(kubelet: &Kubelet) -> Value {
    json!({"kubeletconfig": configuration(&kubelet.config, kubelet.runtime.cgroup_root().path())})
}

/// What the real kubelet takes where nothing is said.
const DEFAULTS: &str = r#"{
    "enableServer": true, "syncFrequency": "1m0s", "fileCheckFrequency": "20s", "httpCheckFrequency": "20s",
    "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}, "anonymous": {"enabled": false}},
    "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}},
    "registryPullQPS": 5, "registryBurst": 10, "eventRecordQPS": 50, "eventBurst": 100, "enableDebuggingHandlers": true,
    "healthzPort": 10248, "healthzBindAddress": "127.0.0.1", "oomScoreAdj": -999, "streamingConnectionIdleTimeout": "4h0m0s",
    "nodeStatusUpdateFrequency": "10s", "nodeStatusReportFrequency": "5m0s", "nodeLeaseDurationSeconds": 40,
    "imageMaximumGCAge": "0s", "volumeStatsAggPeriod": "1m0s", "cgroupsPerQOS": true, "cpuManagerReconcilePeriod": "10s",
    "runtimeRequestTimeout": "2m0s", "hairpinMode": "promiscuous-bridge", "cpuCFSQuota": true, "cpuCFSQuotaPeriod": "100ms",
    "nodeStatusMaxImages": 50, "maxOpenFiles": 1000000, "contentType": "application/vnd.kubernetes.protobuf", "kubeAPIQPS": 50,
    "kubeAPIBurst": 100, "serializeImagePulls": true, "mergeDefaultEvictionSettings": false, "enableControllerAttachDetach": true,
    "makeIPTablesUtilChains": true, "iptablesMasqueradeBit": 14, "iptablesDropBit": 15, "memorySwap": {},
    "containerLogMaxWorkers": 1, "containerLogMonitorInterval": "10s", "configMapAndSecretChangeDetectionStrategy": "Watch",
    "enforceNodeAllocatable": ["pods"], "volumePluginDir": "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
    "logging": {
        "format": "text", "flushFrequency": "5s", "verbosity": 0,
        "options": {"text": {"infoBufferSize": "0"}, "json": {"infoBufferSize": "0"}}
    },
    "enableSystemLogHandler": true, "enableSystemLogQuery": false, "shutdownGracePeriod": "0s",
    "shutdownGracePeriodCriticalPods": "0s", "crashLoopBackOff": {"maxContainerRestartPeriod": "5m0s"},
    "enableProfilingHandler": true, "enableDebugFlagsHandler": true, "seccompDefault": false, "memoryThrottlingFactor": 0.9,
    "memoryReservationPolicy": "None", "localStorageCapacityIsolation": true, "containerRuntimeEndpoint": ""
}"#;

fn defaults() -> Value {
    serde_json::from_str(DEFAULTS).expect("the text above is JSON")
}

fn configuration(config: &Config, group: &str) -> Value {
    let mut page = defaults();
    let names: Vec<String> = page.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    merge(&mut page, &config.written);
    // What is taken anyway where nothing is said is not told.
    if let Some(page) = page.as_object_mut() {
        page.retain(|name, value| names.contains(name) || !is_nothing(value));
    }
    for (name, value) in in_force(config, group) {
        match value {
            Value::Null => drop(page.as_object_mut().and_then(|page| page.remove(name))),
            value => page[name] = value,
        }
    }
    // There is no other way in here.
    page["authentication"]["anonymous"]["enabled"] = false.into();
    page["authorization"]["mode"] = "Webhook".into();
    page
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// What is followed, by its name in the configuration; what is null is not said at all.
fn in_force(config: &Config, group: &str) -> Vec<(&'static str, Value)> {
    let path = |path: &std::path::Path| Value::from(path.display().to_string());
    let words = &config.placement.words;
    let or = |word: &str, default: &str| Value::from(if word.is_empty() { default } else { word });
    let size = Quantity::from_value(i64::try_from(config.log_max_size).unwrap_or(i64::MAX), Format::BinarySI);
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    vec![
        ("kind", "KubeletConfiguration".into()),
        ("apiVersion", "kubelet.config.k8s.io/v1beta1".into()),
        ("address", config.listen.ip().to_string().into()),
        ("port", config.listen.port().into()),
        ("podLogsDir", path(&config.log_dir)),
        ("staticPodPath", config.pod_manifests.as_deref().map_or(Value::Null, path)),
        ("clusterDomain", text(&config.cluster_domain)),
        ("clusterDNS", if dns.is_empty() { Value::Null } else { dns.into() }),
        ("resolvConf", path(&config.resolv_conf)),
        ("cgroupRoot", format!("/{group}").into()),
        ("cgroupDriver", "cgroupfs".into()),
        ("failCgroupV1", false.into()),
        ("maxPods", config.max_pods.into()),
        ("podPidsLimit", config.pod_pids_limit.unwrap_or(-1).into()),
        ("containerLogMaxSize", size.to_string().into()),
        ("containerLogMaxFiles", config.log_max_files.into()),
        ("imageGCHighThresholdPercent", config.image_gc.high_percent.into()),
        ("imageGCLowThresholdPercent", config.image_gc.low_percent.into()),
        ("imageMinimumGCAge", time(config.image_gc.min_age).into()),
        ("imagePullCredentialsVerificationPolicy", verification(&config.image_access).into()),
        ("evictionHard", hard(config)),
        ("evictionPressureTransitionPeriod", time(config.eviction.transition).into()),
        ("failSwapOn", config.swap.fail_on.into()),
        ("memorySwap", if config.swap.behavior == Behavior::LimitedSwap { json!({"swapBehavior": "LimitedSwap"}) } else { swap(config) }),
        ("registerNode", true.into()),
        ("registerWithTaints", taints(&config.taints)),
        ("cpuManagerPolicy", or(&words.cpu_policy, "none")),
        ("cpuManagerPolicyOptions", pairs(&words.cpu_options)),
        ("reservedSystemCPUs", text(&words.reserved_cpus)),
        ("kubeReserved", pairs(&words.kube_reserved)),
        ("systemReserved", pairs(&words.system_reserved)),
        ("memoryManagerPolicy", or(&words.memory_policy, "None")),
        ("reservedMemory", reserved_memory(&words.reserved_memory)),
        ("topologyManagerPolicy", or(&words.topology_policy, "none")),
        ("topologyManagerScope", or(&words.topology_scope, "container")),
        ("topologyManagerPolicyOptions", pairs(&words.topology_options)),
    ]
}

/// No swap is what is meant by nothing, so that it is told only where somebody said it.
fn swap(config: &Config) -> Value {
    let said = config.written.pointer("/memorySwap/swapBehavior").and_then(Value::as_str).is_some_and(|word| !word.is_empty());
    if said { json!({"swapBehavior": "NoSwap"}) } else { json!({}) }
}

fn verification(policy: &image_access::Policy) -> &'static str {
    match policy {
        image_access::Policy::NeverVerify => "NeverVerify",
        image_access::Policy::NeverVerifyPreloadedImages => "NeverVerifyPreloadedImages",
        image_access::Policy::NeverVerifyAllowlistedImages(_) => "NeverVerifyAllowlistedImages",
        image_access::Policy::AlwaysVerify => "AlwaysVerify",
    }
}

/// The thresholds in force, and those that turn their signal off as the file has them.
fn hard(config: &Config) -> Value {
    let mut all: Map<String, Value> = config.eviction_hard.iter().map(|one| (one.signal.to_owned(), amount(one).into())).collect();
    let written = config.written["evictionHard"].as_object();
    for (signal, off) in written.into_iter().flatten().filter(|(_, amount)| matches!(amount.as_str(), Some("0%" | "100%"))) {
        all.entry(signal.clone()).or_insert_with(|| off.clone());
    }
    all.into()
}

fn amount(threshold: &Threshold) -> String {
    match threshold.amount {
        Amount::Value(quantity) => quantity.to_string(),
        Amount::Share(share) => format!("{}%", (share * 1e6).round() / 1e4),
    }
}

/// Taints from `key=value:effect`.
fn taints(words: &[String]) -> Value {
    let taint = |word: &String| {
        let (key, effect) = word.rsplit_once(':').unwrap_or((word, ""));
        match key.split_once('=') {
            Some((key, value)) => json!({"key": key, "value": value, "effect": effect}),
            None => json!({"key": key, "effect": effect}),
        }
    };
    if words.is_empty() { Value::Null } else { words.iter().map(taint).collect() }
}

/// A map from `name=value,...`.
fn pairs(words: &str) -> Value {
    let pairs = words.split(',').filter_map(|pair| pair.split_once('='));
    let map: Map<String, Value> = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().into())).collect();
    if map.is_empty() { Value::Null } else { map.into() }
}

/// A list from `node:resource=amount,...;...`.
fn reserved_memory(words: &str) -> Value {
    let node = |words: &str| {
        let (node, amounts) = words.split_once(':')?;
        Some(json!({"numaNode": node.trim().parse::<u32>().ok()?, "limits": pairs(amounts)}))
    };
    let nodes: Vec<Value> = words.split(';').filter_map(node).collect();
    if nodes.is_empty() { Value::Null } else { nodes.into() }
}

/// Lays what was written over what is there. Times are written as the real kubelet writes them.
fn merge(page: &mut Value, written: &Value) {
    match (page, written) {
        (_, Value::Null) => {}
        (Value::Object(page), Value::Object(written)) => {
            for (name, value) in written {
                match page.get_mut(name) {
                    Some(there) => merge(there, value),
                    None if !value.is_null() => drop(page.insert(name.clone(), value.clone())),
                    None => {}
                }
            }
        }
        (Value::String(there), Value::String(text)) => {
            let spent = there.ends_with('s').then(|| api::cron::go_duration(there).and_then(|_| api::cron::go_duration(text))).flatten();
            let spent = spent.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
            *there = spent.map_or_else(|| text.clone(), time);
        }
        (page, written) => *page = written.clone(),
    }
}

/// A time as Go writes it: `1m0s`, `1.5s`, `100ms`.
fn time(time: Duration) -> String {
    let nanos = time.subsec_nanos();
    if time.as_secs() == 0 && nanos > 0 {
        let (unit, scale) = match nanos {
            1_000_000.. => ("ms", 1e6),
            1_000.. => ("µs", 1e3),
            _ => ("ns", 1.0),
        };
        return format!("{}{unit}", f64::from(nanos) / scale);
    }
    let (hours, minutes, seconds) = (time.as_secs() / 3600, time.as_secs() / 60 % 60, time.as_secs() % 60);
    let mut text = String::new();
    if hours > 0 {
        text = format!("{hours}h");
    }
    if hours > 0 || minutes > 0 {
        text += &format!("{minutes}m");
    }
    let fraction = format!("{nanos:09}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{text}{seconds}{point}{fraction}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_lies_over_what_is_taken() {
        let mut page = defaults();
        merge(
            &mut page,
            &json!({
                "syncFrequency": "90s", "authentication": {"webhook": {"cacheTTL": "1h"}, "x509": {"clientCAFile": "/ca"}},
                "enforceNodeAllocatable": [], "kubeAPIQPS": 7, "evictionSoftGracePeriod": {"memory.available": "90s"}, "port": null,
                "hairpinMode": "none",
            }),
        );
        for (pointer, wanted) in [
            ("/syncFrequency", json!("1m30s")),
            ("/authentication/webhook", json!({"enabled": true, "cacheTTL": "1h0m0s"})),
            ("/authentication/x509/clientCAFile", json!("/ca")),
            ("/enforceNodeAllocatable", json!([])),
            ("/kubeAPIQPS", json!(7)),
            ("/kubeAPIBurst", json!(100)),
            ("/evictionSoftGracePeriod", json!({"memory.available": "90s"})),
            ("/hairpinMode", json!("none")),
        ] {
            assert_eq!(page.pointer(pointer), Some(&wanted), "{pointer}");
        }
        assert_eq!(page.get("port"), None);
    }

    #[test]
    fn times_and_amounts_are_written_as_go_writes_them() {
        for (millis, wanted) in
            [(0, "0s"), (100, "100ms"), (1_500, "1.5s"), (60_000, "1m0s"), (14_400_000, "4h0m0s"), (3_661_000, "1h1m1s"), (20_000, "20s")]
        {
            assert_eq!(time(Duration::from_millis(millis)), wanted);
        }
        assert_eq!(time(Duration::from_micros(1)), "1µs");
        let thresholds = crate::eviction::parse("memory.available<100Mi,nodefs.available<7%,imagefs.available<0.5%").unwrap();
        assert_eq!(thresholds.iter().map(amount).collect::<Vec<_>>(), ["100Mi", "7%", "0.5%"]);
    }

    #[test]
    fn words_become_what_the_configuration_has() {
        assert_eq!(pairs("a=b, c=1"), json!({"a": "b", "c": "1"}));
        assert_eq!(pairs(""), Value::Null);
        let nodes = json!([{"numaNode": 0, "limits": {"memory": "1Gi"}}, {"numaNode": 1, "limits": {"memory": "2Gi"}}]);
        assert_eq!(reserved_memory("0:memory=1Gi;1:memory=2Gi"), nodes);
        assert_eq!(taints(&["a=b:NoSchedule".into(), "c:NoExecute".into()])[1], json!({"key": "c", "effect": "NoExecute"}));
        assert_eq!(taints(&[]), Value::Null);
    }
}
