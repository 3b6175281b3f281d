//! Horizontal pod autoscaler: scales workloads by the CPU and memory that their pods use.
//!
//! Usage comes from the metrics API. Metrics of pods, objects and outside sources need adapters' APIs; where they are not
//! served the condition says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use api::Quantity;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::{EventKind, Selection};
use http::Method;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};
use serde_json::Value;

use crate::autoscale_plan::{self, Event, Memory, Sample};
use crate::pods::{self, Owned};
use crate::{Config, Entry, discovery, moment};

/// Time between two looks at the metrics, as upstream's default.
const PERIOD: Duration = Duration::from_secs(15);

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "horizontal-pod-autoscaler", controller: Arc::new(Autoscaler { memories: Mutex::default() }) }
}

struct Autoscaler {
    /// Recommendations and changes by uid.
    memories: Mutex<HashMap<String, Memory>>,
}

/// What one look at the metrics says.
struct Look {
    wish: i32,
    metrics: Vec<MetricStatus>,
    /// The metric that asks for the most.
    leader: String,
}

#[async_trait]
impl Controller for Autoscaler {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::mapped(Selection::of::<HorizontalPodAutoscaler>(), |_, old, new, add| {
                // Its own status is no reason to look again.
                let generation = |entry: Option<&Arc<store::Entry>>| {
                    entry.and_then(|entry| cache::decode::<HorizontalPodAutoscaler>(entry)).map(|one| one.spec)
                };
                if let Some(entry) = new.filter(|_| generation(old) != generation(new)) {
                    add(ObjectKey::of(entry));
                }
            }),
            Watch::read(Selection::of::<Pod>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(scaler) = context.cache::<HorizontalPodAutoscaler>().read::<HorizontalPodAutoscaler>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        if scaler.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let spec = scaler.spec.clone();
        let uid = scaler.metadata.uid.clone().unwrap_or_default();
        let mut status = scaler.status.clone().unwrap_or_default();
        let memory = self.memories.lock().get(&uid).cloned().unwrap_or_default();
        let memory = self.scale(context, &scaler, &spec, &mut status, memory).await;
        self.memories.lock().insert(uid, memory);
        status.observed_generation = scaler.metadata.generation;
        if scaler.status.as_ref() != Some(&status) {
            context.client.update_status(&HorizontalPodAutoscaler { status: Some(status), ..scaler }).await?;
        }
        Ok(Next::After(PERIOD))
    }
}

impl Autoscaler {
    /// Does one round; what goes wrong is told in the conditions.
    async fn scale(
        &self,
        context: &Context,
        scaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        status: &mut HorizontalPodAutoscalerStatus,
        mut memory: Memory,
    ) -> Memory {
        let namespace = scaler.metadata.namespace.as_deref().unwrap_or("");
        let (path, mut scale) = match scale_of(context, namespace, spec).await {
            Ok(found) => found,
            Err(error) => {
                context.event(scaler, EventKind::Warning, "FailedGetScale", error.to_string());
                set(
                    status,
                    "AbleToScale",
                    "False",
                    "FailedGetScale",
                    &format!("the HPA controller was unable to get the target's current scale: {error}"),
                );
                return memory;
            }
        };
        set(status, "AbleToScale", "True", "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let current = scale["spec"]["replicas"].as_i64().unwrap_or(0) as i32;
        status.current_replicas = scale["status"]["replicas"].as_i64().map(|count| count as i32);
        let least = spec.min_replicas.unwrap_or(1);
        if current == 0 && least != 0 {
            set(status, "ScalingActive", "False", "ScalingDisabled", "scaling is disabled since the replica count of the target is zero");
            return memory;
        }
        let (wanted, why) = if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let look = match look(context, namespace, spec, &scale, current).await {
                Ok(look) => look,
                Err((reason, error)) => {
                    context.event(scaler, EventKind::Warning, reason, error.to_string());
                    set(status, "ScalingActive", "False", reason, &format!("the HPA was unable to compute the replica count: {error}"));
                    return memory;
                }
            };
            set(
                status,
                "ScalingActive",
                "True",
                "ValidMetricFound",
                &format!("the HPA was able to successfully calculate a replica count from {}", look.leader),
            );
            status.current_metrics = Some(look.metrics);
            let (wanted, limit) = autoscale_plan::settle(
                current,
                look.wish,
                (least, spec.max_replicas),
                spec.behavior.as_ref(),
                &mut memory,
                moment::seconds(),
            );
            match limit {
                Some((reason, message)) => set(status, "ScalingLimited", "True", reason, message),
                None => set(status, "ScalingLimited", "False", "DesiredWithinRange", "the desired count is within the acceptable range"),
            }
            let text = if wanted > current { format!("{} above target", look.leader) } else { "All metrics below target".to_owned() };
            (wanted, text)
        };
        status.desired_replicas = wanted;
        if wanted == current {
            if status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "AbleToScale" && condition.reason.as_deref() == Some("SucceededGetScale"))
            {
                set(status, "AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size");
            }
            return memory;
        }
        scale["spec"]["replicas"] = wanted.into();
        match context.client.call(Method::PUT, &path, &scale).await {
            Ok(_) => {
                memory.changes.push(Event { at: moment::seconds(), value: wanted - current });
                status.last_scale_time = Some(moment::now());
                context.event(scaler, EventKind::Normal, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
                set(
                    status,
                    "AbleToScale",
                    "True",
                    "SucceededRescale",
                    &format!("the HPA controller was able to update the target scale to {wanted}"),
                );
            }
            Err(error) => {
                context.event(scaler, EventKind::Warning, "FailedRescale", format!("New size: {wanted}; reason: {why}; error: {error}"));
                set(
                    status,
                    "AbleToScale",
                    "False",
                    "FailedUpdateScale",
                    &format!("the HPA controller was unable to update the target scale: {error}"),
                );
            }
        }
        memory
    }
}

/// Path and content of the target's scale.
async fn scale_of(context: &Context, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Result<(String, Value)> {
    let target = &spec.scale_target_ref;
    let api_version = target.api_version.as_deref().unwrap_or("v1");
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let (served, _) = discovery::resources(&context.client).await?;
    let Some(found) = served.iter().find(|one| one.resource.group == group && one.kind == target.kind) else {
        bail!("no matches for kind {:?} in group {group:?}", target.kind);
    };
    let path = found.resource.path(namespace, &target.name, "scale");
    let scale = context.client.call(Method::GET, &path, &Value::Null).await?;
    Ok((path, scale))
}

/// The largest wish of all metrics; one that cannot be read forbids scaling down.
async fn look(
    context: &Context,
    namespace: &str,
    spec: &HorizontalPodAutoscalerSpec,
    scale: &Value,
    current: i32,
) -> Result<Look, (&'static str, anyhow::Error)> {
    let text = scale["status"]["selector"].as_str().unwrap_or("");
    let selector = LabelSelector::parse(text).map_err(|error| {
        ("InvalidSelector", anyhow!("couldn't convert selector into a corresponding internal selector object: {error}"))
    })?;
    if text.is_empty() {
        return Err(("InvalidSelector", anyhow!("selector is required")));
    }
    let entries = context.cache::<Pod>().list_namespace(namespace);
    let pods: Vec<Owned> = entries
        .into_iter()
        .filter(|entry| selector.matches_sorted(&entry.header.labels))
        .filter_map(pods::lite)
        .filter(Owned::is_active)
        .collect();
    let usage = usage(context, namespace, text).await;
    let mut look = Look { wish: 0, metrics: Vec::new(), leader: String::new() };
    let mut failure = None;
    for metric in spec.metrics.iter().flatten() {
        match judge(metric, &pods, &usage, current) {
            Ok((wish, status, leader)) => {
                if wish > look.wish || look.leader.is_empty() {
                    look.wish = wish;
                    look.leader = leader;
                }
                look.metrics.push(status);
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if look.leader.is_empty() || look.wish < current => Err(error),
        _ => Ok(look),
    }
}

/// Usage of pods by name and resource, in thousandths.
async fn usage(context: &Context, namespace: &str, selector: &str) -> Result<HashMap<String, HashMap<String, i64>>, String> {
    let escaped: String = selector
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={escaped}");
    let list = context
        .client
        .call(Method::GET, &path, &Value::Null)
        .await
        .map_err(|status| format!("unable to fetch metrics from resource metrics API: {status}"))?;
    let mut all = HashMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let mut sums: HashMap<String, i64> = HashMap::new();
        for container in pod["containers"].as_array().into_iter().flatten() {
            for (name, value) in container["usage"].as_object().into_iter().flatten() {
                *sums.entry(name.clone()).or_default() += Quantity::from_json(value).map_or(0, Quantity::milli);
            }
        }
        all.insert(pod["metadata"]["name"].as_str().unwrap_or("").to_owned(), sums);
    }
    Ok(all)
}

type Judged = (i32, MetricStatus, String);

fn judge(
    metric: &MetricSpec,
    pods: &[Owned],
    usage: &Result<HashMap<String, HashMap<String, i64>>, String>,
    current: i32,
) -> Result<Judged, (&'static str, anyhow::Error)> {
    let Some(resource) = metric.resource.as_ref().filter(|_| metric.type_ == "Resource") else {
        let reason = match metric.type_.as_str() {
            "Pods" => "FailedGetPodsMetric",
            "Object" => "FailedGetObjectMetric",
            "External" => "FailedGetExternalMetric",
            "ContainerResource" => "FailedGetContainerResourceMetric",
            _ => "InvalidMetricSourceType",
        };
        return Err((reason, anyhow!("no API is served for metrics of type {}", metric.type_)));
    };
    let failed = |error: String| ("FailedGetResourceMetric", anyhow!("failed to get {} utilization: {error}", resource.name));
    let usage = usage.as_ref().map_err(|error| failed(error.clone()))?;
    let samples: Vec<(Sample, i64)> = pods
        .iter()
        .map(|pod| {
            let value = usage.get(pod.name()).and_then(|sums| sums.get(&resource.name)).copied();
            let sample = match value {
                _ if !pod.lite.ready && resource.name == "cpu" => Sample::Unready,
                Some(value) => Sample::Measured(value),
                None => Sample::Missing,
            };
            let needs = resource.target.type_ == "Utilization";
            (sample, if needs { request(pod, &resource.name) } else { 0 })
        })
        .collect();
    let (wish, shown) = wish(&samples, &resource.target, current).map_err(|error| failed(error.to_string()))?;
    let status = MetricStatus {
        type_: "Resource".into(),
        resource: Some(ResourceMetricStatus { name: resource.name.clone(), current: shown }),
        ..MetricStatus::default()
    };
    let leader = if resource.target.type_ == "Utilization" {
        format!("{} resource utilization (percentage of request)", resource.name)
    } else {
        format!("{} resource", resource.name)
    };
    Ok((wish, status, leader))
}

/// What the containers of a pod ask for, in thousandths; 0 if one does not say.
fn request(pod: &Owned, resource: &str) -> i64 {
    let spec = cache::decode::<Pod>(&pod.entry).and_then(|pod| pod.spec).unwrap_or_default();
    let amounts = spec.containers.iter().map(|container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(resource)).and_then(|amount| Quantity::parse(&amount.0)).map(Quantity::milli)
    });
    amounts.sum::<Option<i64>>().unwrap_or(0)
}

fn wish(samples: &[(Sample, i64)], target: &MetricTarget, current: i32) -> Result<(i32, MetricValueStatus)> {
    let measured: Vec<(i64, i64)> = samples
        .iter()
        .filter_map(|(sample, request)| if let Sample::Measured(value) = sample { Some((*value, *request)) } else { None })
        .collect();
    if measured.is_empty() {
        bail!("no metrics returned from resource metrics API");
    }
    let mean = measured.iter().map(|(value, _)| value).sum::<i64>() / measured.len() as i64;
    let text = if mean % 1000 == 0 { (mean / 1000).to_string() } else { format!("{mean}m") };
    let mut shown = MetricValueStatus { average_value: Some(Text(text)), ..MetricValueStatus::default() };
    let goal = match target.average_utilization.filter(|_| target.type_ == "Utilization") {
        Some(percent) => {
            if measured.iter().any(|(_, request)| *request == 0) {
                bail!("missing request for a container of a pod");
            }
            let requested = measured.iter().map(|(_, request)| request).sum::<i64>();
            shown.average_utilization = Some((measured.iter().map(|(value, _)| value).sum::<i64>() * 100 / requested) as i32);
            requested / measured.len() as i64 * i64::from(percent) / 100
        }
        None => target
            .average_value
            .as_ref()
            .and_then(|amount| Quantity::parse(&amount.0))
            .map(Quantity::milli)
            .ok_or_else(|| anyhow!("the target has no value"))?,
    };
    let samples: Vec<Sample> = samples.iter().map(|(sample, _)| *sample).collect();
    let wish = autoscale_plan::replicas(current, &samples, goal).ok_or_else(|| anyhow!("no metrics returned from resource metrics API"))?;
    Ok((wish, shown))
}

fn set(status: &mut HorizontalPodAutoscalerStatus, kind: &str, value: &str, reason: &str, message: &str) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let since = known.map(|place| &conditions[place]).filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone());
    let fresh = HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(since.unwrap_or_else(moment::now)),
    };
    match known {
        Some(place) => conditions[place] = fresh,
        None => conditions.push(fresh),
    }
}
