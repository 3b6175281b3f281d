//! The policies of Jobs: what a failed pod means, and which successes are enough.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::Pod;

use crate::job_indexes::Indexes;

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One more failure.
    Count,
    /// Nothing.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, with this message.
    FailJob(String),
}

/// Judges a failed pod; without policy it counts.
pub(crate) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (number, rule) in policy.iter().flat_map(|policy| policy.rules.iter().enumerate()) {
        let name = || format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
        let why = if let Some(codes) = &rule.on_exit_codes {
            matching_exit(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {} failed with exit code {code} matching {} rule at index {number}",
                    name(),
                    rule.action
                )
            })
        } else {
            matching_condition(pod, rule.on_pod_conditions.as_deref().unwrap_or_default())
                .map(|condition| format!("Pod {} has condition {condition} matching {} rule at index {number}", name(), rule.action))
        };
        let Some(why) = why else {
            continue;
        };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "FailJob" => return Verdict::FailJob(why),
            "Count" => return Verdict::Count,
            _ => {}
        }
    }
    Verdict::Count
}

fn matching_exit(pod: &Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    containers
        .filter(|container| codes.container_name.as_ref().is_none_or(|name| *name == container.name))
        .filter_map(|container| Some((container.name.clone(), container.state.as_ref()?.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| *code != 0 && codes.values.contains(code) == (codes.operator == "In"))
}

fn matching_condition(pod: &Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    let matches = |kind: &str, status: &str| {
        patterns.iter().any(|pattern| pattern.type_ == kind && pattern.status.as_deref().unwrap_or("True") == status)
    };
    conditions.iter().find(|condition| matches(&condition.type_, &condition.status)).map(|condition| condition.type_.clone())
}

/// The message of the first rule that the succeeded indexes fulfil.
pub(crate) fn success(policy: &SuccessPolicy, completions: i32, succeeded: &Indexes) -> Option<String> {
    policy.rules.iter().enumerate().find_map(|(number, rule)| {
        let enough = match &rule.succeeded_indexes {
            None => rule.succeeded_count.is_some_and(|count| succeeded.count() >= count),
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let reached = (0..completions).filter(|index| wanted.has(*index) && succeeded.has(*index)).count() as i32;
                reached >= rule.succeeded_count.unwrap_or(wanted.count())
            }
        };
        enough.then(|| format!("Matched rules at index {number}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failures_are_judged_by_the_first_matching_rule() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]}))
        .unwrap();
        let pod = |code: i32, condition: Option<&str>| -> Pod {
            let conditions: Vec<_> = condition.into_iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"conditions": conditions, "containerStatuses": [
                {"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}},
            ]}}))
            .unwrap()
        };
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        let cases = [
            (1, None, Verdict::Count),
            (42, None, Verdict::FailJob(message.into())),
            (42, Some("DisruptionTarget"), Verdict::Ignore),
            (3, None, Verdict::FailIndex),
            (0, None, Verdict::Count),
        ];
        for (code, condition, wanted) in cases {
            assert_eq!(judge(Some(&policy), &pod(code, condition)), wanted, "{code} {condition:?}");
        }
        assert_eq!(judge(None, &pod(42, None)), Verdict::Count);
    }

    #[test]
    fn successes_are_enough() {
        let check = |rule: serde_json::Value, succeeded: &str, wanted: bool| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [rule]})).unwrap();
            assert_eq!(success(&policy, 10, &Indexes::parse(succeeded, 10)).is_some(), wanted, "{succeeded}");
        };
        check(json!({"succeededCount": 2}), "3,5", true);
        check(json!({"succeededCount": 2}), "3", false);
        check(json!({"succeededIndexes": "0-2"}), "0-1", false);
        check(json!({"succeededIndexes": "0-2"}), "0-2", true);
        check(json!({"succeededIndexes": "0-2", "succeededCount": 1}), "2", true);
    }
}
