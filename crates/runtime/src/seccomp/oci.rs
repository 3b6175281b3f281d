//! Profiles in the JSON form of the OCI specification, as `Localhost` profiles and container engines write them.

use serde::Deserialize;

use super::{Action, Comparison, Condition, Profile, ProfileError, Rule, calls};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
}

/// Reads a profile for a container with these capabilities. Calls that this machine does not have are left out.
pub(super) fn parse(json: &str, capabilities: &[String]) -> Result<Profile, ProfileError> {
    let document: Document = serde_json::from_str(json).map_err(|error| ProfileError::Parse(error.to_string()))?;
    let default = action(&document.default_action, document.default_errno_ret)?;
    let mut rules = Vec::new();
    for entry in document.syscalls.unwrap_or_default() {
        let applies = entry.includes.as_ref().is_none_or(|filter| filter.holds(capabilities))
            && !entry.excludes.as_ref().is_some_and(|filter| filter.any(capabilities));
        if !applies {
            continue;
        }
        let action = action(&entry.action, entry.errno_ret)?;
        let conditions = entry.args.unwrap_or_default().iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        for name in entry.name.iter().chain(entry.names.iter().flatten()) {
            if let Some(call) = calls::number(name) {
                rules.push(Rule { call, conditions: conditions.clone(), action });
            }
        }
    }
    // A rule that says what happens anyway costs instructions and decides nothing.
    rules.retain(|rule| rule.action != default || !rule.conditions.is_empty());
    Ok(Profile { default, rules })
}

impl Filter {
    fn holds(&self, capabilities: &[String]) -> bool {
        let caps = self.caps.iter().flatten().all(|cap| capabilities.contains(cap));
        caps && self.arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.iter().any(|a| ours(a)))
    }

    fn any(&self, capabilities: &[String]) -> bool {
        self.caps.iter().flatten().any(|cap| capabilities.contains(cap)) || self.arches.iter().flatten().any(|a| ours(a))
    }
}

fn ours(arch: &str) -> bool {
    let names: &[&str] =
        if cfg!(target_arch = "x86_64") { &["amd64", "x86_64", "SCMP_ARCH_X86_64"] } else { &["arm64", "aarch64", "SCMP_ARCH_AARCH64"] };
    names.contains(&arch)
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, ProfileError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(1)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(1)),
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(ProfileError::Parse(format!("action {other} is not supported"))),
    })
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    let (comparison, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Comparison::Less, argument.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
        "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(argument.value), argument.value_two),
        other => return Err(ProfileError::Parse(format!("comparison {other} is not supported"))),
    };
    if argument.index > 5 {
        return Err(ProfileError::Parse(format!("argument {} does not exist", argument.index)));
    }
    Ok(Condition { argument: argument.index, comparison, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rules_and_leaves_out_what_does_not_apply() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["read","nosuchcall"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
        let profile = parse(json, &[]).expect("a profile");
        assert_eq!(profile.default, Action::Errno(38));
        assert_eq!(profile.rules.len(), 2);
        assert_eq!(parse(json, &["CAP_SYS_ADMIN".into()]).expect("a profile").rules.len(), 3);
        assert!(parse("{}", &[]).is_err());
        assert!(parse(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, &[]).is_err());
    }
}
