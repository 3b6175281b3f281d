//! Whether an ended container runs again: the pod's policy, the container's own policy and its rules (KEP-5307).

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::model::{Member, Role};

/// What follows the end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It runs again.
    Yes,
    /// It has ended for good.
    No,
    /// All containers of the pod start afresh.
    AllContainers,
}

/// What follows an exit with this code.
pub fn after_exit(pod: &PodSpec, member: &Member, code: i32) -> Restart {
    match member.role {
        Role::Ephemeral => Restart::No,
        Role::Sidecar => rule(&member.spec, code).unwrap_or(Restart::Yes),
        Role::Init if code == 0 => Restart::No,
        Role::Init | Role::Main => rule(&member.spec, code).unwrap_or_else(|| {
            let policy = member.spec.restart_policy.as_deref().or(pod.restart_policy.as_deref());
            match policy.unwrap_or("Always") {
                // An init container that failed under Always runs again like under OnFailure.
                "Never" => Restart::No,
                "OnFailure" if code == 0 => Restart::No,
                _ => Restart::Yes,
            }
        }),
    }
}

fn rule(container: &Container, code: i32) -> Option<Restart> {
    container.restart_policy_rules.iter().flatten().find_map(|rule| {
        let codes = rule.exit_codes.as_ref()?;
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        let holds = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        holds.then(|| if rule.action == "RestartAllContainers" { Restart::AllContainers } else { Restart::Yes })
    })
}
