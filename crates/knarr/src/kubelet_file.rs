//! Files for the real kubelet (KubeletConfiguration), for whoever runs a node: `knarr kubelet --config`, and a server or an agent
//! with `--kubelet-config`. What a flag of a node says too becomes that flag; the rest are settings that have none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::Quantity;
use kubelet::eviction::Policy;
use kubelet::shutdown::Period;
use kubelet::swap::Behavior;
use serde_json::Value;

use crate::twins::component_config::{self, Fields};

/// Fields of the configuration that nothing here depends on.
pub const HARMLESS: &[&str] = &[
    "/authentication/webhook",
    "/authorization/webhook",
    "/cgroupDriver",
    "/cgroupsPerQOS",
    "/enforceNodeAllocatable",
    "/cpuManagerReconcilePeriod",
    "/failCgroupV1",
    "/fileCheckFrequency",
    "/httpCheckFrequency",
    "/imageMaximumGCAge",
    "/kubeAPIQPS",
    "/kubeAPIBurst",
    "/logging",
    "/nodeStatusReportFrequency",
    "/nodeStatusUpdateFrequency",
    "/rotateCertificates",
    "/runtimeRequestTimeout",
    "/streamingConnectionIdleTimeout",
    "/syncFrequency",
    "/volumeStatsAggPeriod",
    "/featureGates",
    "/crashLoopBackOff",
    "/serializeImagePulls",
    "/maxParallelImagePulls",
    "/registryPullQPS",
    "/registryBurst",
    "/eventRecordQPS",
    "/eventBurst",
    "/oomScoreAdj",
    "/localStorageCapacityIsolation",
    "/enableServer",
    "/enableProfilingHandler",
    "/enableDebugFlagsHandler",
    "/enableDebuggingHandlers",
    "/containerLogMaxWorkers",
    "/containerLogMonitorInterval",
    "/nodeLeaseDurationSeconds",
    "/volumePluginDir",
    "/makeIPTablesUtilChains",
    "/hairpinMode",
    "/contentType",
    "/configMapAndSecretChangeDetectionStrategy",
    "/maxOpenFiles",
    "/nodeStatusMaxImages",
];

/// Flags about processors, memory and devices, and the fields that say the same.
pub const PLACEMENT: &[(&str, &str)] = &[
    ("cpu-manager-policy", "/cpuManagerPolicy"),
    ("cpu-manager-policy-options", "/cpuManagerPolicyOptions"),
    ("reserved-cpus", "/reservedSystemCPUs"),
    ("kube-reserved", "/kubeReserved"),
    ("system-reserved", "/systemReserved"),
    ("memory-manager-policy", "/memoryManagerPolicy"),
    ("reserved-memory", "/reservedMemory"),
    ("topology-manager-policy", "/topologyManagerPolicy"),
    ("topology-manager-scope", "/topologyManagerScope"),
    ("topology-manager-policy-options", "/topologyManagerPolicyOptions"),
];

/// What a file says that no flag of a node does.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    eviction: Policy,
    shutdown: Vec<Period>,
    swap: Option<Behavior>,
    /// Whether the node may not run where there is swap; nothing where the file does not say.
    pub fail_swap_on: Option<bool>,
    user_ids: Option<u32>,
    pids_limit: Option<i64>,
    log_max_size: Option<u64>,
    log_max_files: Option<u32>,
    image_access: kubelet::image_access::Policy,
    /// All that the file says.
    pub written: Value,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read or is of another kind.
pub fn read(file: &Path) -> Result<Fields> {
    component_config::read(file, "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
}

/// The file's part in the flags of a server or an agent, which those of the command line come after.
///
/// # Errors
/// The file cannot be used.
pub fn arguments(file: &Path) -> Result<Vec<OsString>> {
    let flags = flags(&mut read(file)?).with_context(|| format!("kubelet configuration {}", file.display()))?;
    Ok(flags.into_iter().map(|(flag, value)| format!("--{flag}={value}").into()).collect())
}

impl Settings {
    /// The settings of a server's or an agent's file. What their clusters decide, they do not take from there.
    ///
    /// # Errors
    /// A field that means nothing here.
    pub fn of(file: Option<&Path>) -> Result<Settings> {
        let Some(file) = file else { return Ok(Settings::default()) };
        let mut fields = read(file)?;
        let written = fields.left().clone();
        let taken = |fields: &mut Fields| -> Result<Settings> {
            demand(fields)?;
            let _said_by_flags = flags(fields)?;
            Settings::read(fields)
        };
        let settings = taken(&mut fields).and_then(|settings| fields.finish(HARMLESS).map(|()| Settings { written, ..settings }));
        settings.with_context(|| format!("kubelet configuration {}", file.display()))
    }

    /// Takes them from a file.
    ///
    /// # Errors
    /// A value that is none.
    pub fn read(fields: &mut Fields) -> Result<Settings> {
        let size = fields.text("/containerLogMaxSize").map(|size| {
            let quantity = Quantity::parse(&size).with_context(|| format!("containerLogMaxSize {size:?} is no quantity"))?;
            u64::try_from(quantity.value()).context("containerLogMaxSize")
        });
        let files = fields.text("/containerLogMaxFiles").map(|files| files.parse().context("containerLogMaxFiles"));
        let pids = fields.text("/podPidsLimit").map(|limit| limit.parse::<i64>()).transpose();
        let user_ids = fields.text("/userNamespaces/idsPerPod").map(|ids| ids.parse::<u32>()).transpose();
        Ok(Settings {
            eviction: eviction(fields)?,
            shutdown: shutdown(fields)?,
            swap: swap(fields)?,
            fail_swap_on: fields.text("/failSwapOn").map(|text| text != "false"),
            pids_limit: pids.context("podPidsLimit")?.filter(|limit| *limit > 0),
            user_ids: user_ids.context("userNamespaces.idsPerPod")?.filter(|ids| *ids > 0),
            log_max_size: size.transpose()?,
            log_max_files: files.transpose()?,
            image_access: image_access(fields)?,
            written: Value::Null,
        })
    }

    /// Tells them to a kubelet.
    pub fn apply(&self, config: &mut kubelet::Config) {
        config.eviction = self.eviction.clone();
        config.shutdown = kubelet::shutdown::Config::new(self.shutdown.clone());
        config.swap.behavior = self.swap.unwrap_or(config.swap.behavior);
        config.swap.fail_on = self.fail_swap_on.unwrap_or(config.swap.fail_on);
        config.pod_pids_limit = self.pids_limit;
        config.user_ids_per_pod = self.user_ids.unwrap_or(config.user_ids_per_pod);
        config.log_max_size = self.log_max_size.unwrap_or(config.log_max_size);
        config.log_max_files = self.log_max_files.unwrap_or(config.log_max_files);
        config.image_access = self.image_access.clone();
        config.written = self.written.clone();
    }
}

/// Takes fields that can only have one value here.
///
/// # Errors
/// They have another one.
pub fn demand(fields: &mut Fields) -> Result<()> {
    for (field, must) in [("/authentication/anonymous/enabled", "false"), ("/authorization/mode", "Webhook"), ("/registerNode", "true")] {
        if let Some(value) = fields.text(field).filter(|value| value != must) {
            bail!("the field {} can only be {must} here, not {value}", field.trim_start_matches('/').replace('/', "."));
        }
    }
    Ok(())
}

/// Takes what flags of a node say too: their names and values.
///
/// # Errors
/// Thresholds that are no map.
pub fn flags(fields: &mut Fields) -> Result<Vec<(&'static str, String)>> {
    let mut flags = Vec::new();
    for (flag, field) in [
        ("pod-logs", "/podLogsDir"),
        ("pod-manifests", "/staticPodPath"),
        ("kubelet-port", "/port"),
        ("max-pods", "/maxPods"),
        ("resolv-conf", "/resolvConf"),
        ("image-gc-high-threshold", "/imageGCHighThresholdPercent"),
        ("image-gc-low-threshold", "/imageGCLowThresholdPercent"),
        ("container-runtime-endpoint", "/containerRuntimeEndpoint"),
    ] {
        flags.extend(fields.text(field).map(|value| (flag, value)));
    }
    for (flag, field) in PLACEMENT {
        flags.extend(fields.take(field).map(|value| as_flag(&value)).filter(|text| !text.is_empty()).map(|value| (*flag, value)));
    }
    let group = fields.text("/cgroupRoot").map(|path| path.trim_matches('/').to_owned()).filter(|path| !path.is_empty());
    flags.extend(group.map(|path| ("cgroup-root", path)));
    let hard: BTreeMap<String, String> =
        fields.take("/evictionHard").map(serde_json::from_value).transpose().context("evictionHard")?.unwrap_or_default();
    if !hard.is_empty() {
        let hard: Vec<String> = hard.iter().map(|(signal, amount)| format!("{signal}<{amount}")).collect();
        flags.push(("eviction-hard", hard.join(",")));
    }
    for taint in fields.take("/registerWithTaints").iter().filter_map(Value::as_array).flatten() {
        let text = |field: &str| taint[field].as_str().unwrap_or("").to_owned();
        let value = Some(text("value")).filter(|value| !value.is_empty()).map(|value| format!("={value}")).unwrap_or_default();
        flags.push(("node-taint", format!("{}{value}:{}", text("key"), text("effect"))));
    }
    Ok(flags)
}

/// Whose credentials are verified for images that are here already.
fn image_access(fields: &mut Fields) -> Result<kubelet::image_access::Policy> {
    let policy = fields.text("/imagePullCredentialsVerificationPolicy").unwrap_or_default();
    let allowlist = texts(fields.take("/preloadedImagesVerificationAllowlist"));
    kubelet::image_access::Policy::parse(&policy, &allowlist).context("imagePullCredentialsVerificationPolicy")
}

/// What pods are evicted for beside the hard thresholds.
fn eviction(fields: &mut Fields) -> Result<Policy> {
    let map = |fields: &mut Fields, name: &str| -> Result<BTreeMap<String, String>> {
        let value = fields.take(&format!("/{name}")).map(serde_json::from_value).transpose();
        Ok(value.with_context(|| name.to_owned())?.unwrap_or_default())
    };
    let soft: Vec<String> = map(fields, "evictionSoft")?.iter().map(|(signal, amount)| format!("{signal}<{amount}")).collect();
    let grace = map(fields, "evictionSoftGracePeriod")?;
    let grace = grace.into_iter().map(|(signal, time)| Ok((signal, duration(&time).context("evictionSoftGracePeriod")?)));
    let grace: BTreeMap<String, Duration> = grace.collect::<Result<_>>()?;
    let transition = fields.text("/evictionPressureTransitionPeriod").map(|time| duration(&time)).transpose();
    let transition = transition.context("evictionPressureTransitionPeriod")?.filter(|time| !time.is_zero());
    let most = fields.text("/evictionMaxPodGracePeriod").map(|seconds| seconds.parse()).transpose();
    Ok(Policy {
        soft: Policy::soft(&soft.join(","), &grace).context("evictionSoft")?,
        minimum_reclaim: Policy::reclaim(&map(fields, "evictionMinimumReclaim")?).context("evictionMinimumReclaim")?,
        max_pod_grace: most.context("evictionMaxPodGracePeriod")?.unwrap_or(0),
        transition: transition.unwrap_or_else(|| Policy::default().transition),
    })
}

/// How long pods have when the machine goes down.
fn shutdown(fields: &mut Fields) -> Result<Vec<Period>> {
    let mut time = |name: &str| -> Result<Duration> {
        let text = fields.text(&format!("/{name}"));
        Ok(text.map(|text| duration(&text)).transpose().with_context(|| name.to_owned())?.unwrap_or_default())
    };
    let (all, critical) = (time("shutdownGracePeriod")?, time("shutdownGracePeriodCriticalPods")?);
    let by_priority = fields.take("/shutdownGracePeriodByPodPriority").and_then(|list| list.as_array().cloned()).unwrap_or_default();
    if critical > all {
        bail!("invalid configuration: shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {all:?}");
    }
    for (name, time) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if !time.is_zero() && time < Duration::from_secs(1) {
            bail!("invalid configuration: {name} {time:?} must be either zero or otherwise >= 1 sec");
        }
        if !time.is_zero() && !by_priority.is_empty() {
            bail!("invalid configuration: cannot specify both shutdownGracePeriodByPodPriority and {name} at the same time");
        }
    }
    if by_priority.is_empty() {
        return Ok(kubelet::shutdown::two_periods(all, critical));
    }
    let period = |entry: &Value| {
        let number = |field: &str| entry[field].as_i64().or_else(|| entry[field].is_null().then_some(0));
        let priority = number("priority").and_then(|priority| i32::try_from(priority).ok());
        Some(Period { priority: priority?, seconds: number("shutdownGracePeriodSeconds").filter(|seconds| *seconds >= 0)? })
    };
    by_priority.iter().map(|entry| period(entry).context("shutdownGracePeriodByPodPriority")).collect()
}

/// Whether pods may use swap.
fn swap(fields: &mut Fields) -> Result<Option<Behavior>> {
    match fields.text("/memorySwap/swapBehavior").as_deref() {
        None => Ok(None),
        Some("NoSwap") => Ok(Some(Behavior::NoSwap)),
        Some("LimitedSwap") => Ok(Some(Behavior::LimitedSwap)),
        Some(other) => {
            bail!("invalid configuration: memorySwap.swapBehavior {other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")
        }
    }
}

fn duration(text: &str) -> Result<Duration> {
    let nanos = api::cron::go_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).with_context(|| format!("time: invalid duration {text:?}"))
}

/// A list of texts.
pub fn texts(value: Option<Value>) -> Vec<String> {
    value.iter().filter_map(Value::as_array).flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A map as `name=value,...`, and a list of reserved memory as `node:name=value,...;...`, as flags have them.
fn as_flag(value: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(","),
        Value::Array(list) => {
            let node = |node: &Value| format!("{}:{}", node["numaNode"].as_i64().unwrap_or(0), as_flag(&node["limits"]));
            list.iter().map(node).collect::<Vec<_>>().join(";")
        }
        Value::Null => String::new(),
        other => plain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 17
kubeReserved: {cpu: 100m}
evictionHard: {memory.available: 50Mi}
evictionSoft: {nodefs.available: 10%}
evictionSoftGracePeriod: {nodefs.available: 90s}
evictionMaxPodGracePeriod: 20
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 10s
containerLogMaxSize: 1Mi
podPidsLimit: 1024
imagePullCredentialsVerificationPolicy: AlwaysVerify
registerWithTaints: [{key: a, value: b, effect: NoSchedule}, {key: c, effect: NoExecute}]
";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn a_file_becomes_flags_and_settings() {
        let file = file(FILE);
        let flags: Vec<String> = arguments(file.path()).unwrap().into_iter().map(|flag| flag.into_string().unwrap()).collect();
        let expected = [
            "--max-pods=17",
            "--kube-reserved=cpu=100m",
            "--eviction-hard=memory.available<50Mi",
            "--node-taint=a=b:NoSchedule",
            "--node-taint=c:NoExecute",
        ];
        assert_eq!(flags, expected);
        let settings = Settings::of(Some(file.path())).unwrap();
        assert_eq!((settings.shutdown.len(), settings.eviction.max_pod_grace, settings.log_max_size), (2, 20, Some(1 << 20)));
        assert_eq!(settings.image_access, kubelet::image_access::Policy::AlwaysVerify);
        assert_eq!((settings.eviction.soft.len(), settings.pids_limit), (1, Some(1024)));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (more, said) in [
            ("clusterDomain: other", "clusterDomain"),
            ("clusterDNS: [10.0.0.10]", "clusterDNS"),
            ("serverTLSBootstrap: true", "serverTLSBootstrap"),
            ("authentication: {anonymous: {enabled: true}}", "authentication.anonymous.enabled"),
            ("unheardOf: 1", "unheardOf"),
            ("memorySwap: {swapBehavior: Much}", "Much"),
        ] {
            let error = format!("{:#}", Settings::of(Some(file(&format!("{FILE}{more}\n")).path())).unwrap_err());
            assert!(error.contains(said) && error.contains("kubelet configuration"), "{error}");
        }
    }
}
