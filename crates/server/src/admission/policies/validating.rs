//! ValidatingAdmissionPolicy.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use cel::policy::Verdict;
use serde_json::{Value, json};
use store::Store;

use super::bound::{Binding, Compiled, Policies, concerned, params, refusal};
use crate::admission::facts::Known;
use crate::admission::{Admission, Plugin};
use crate::audit;
use crate::follow::Follow;
use crate::server::Server;

/// The plugin.
pub fn validating(store: Arc<dyn Store>) -> Box<dyn Plugin> {
    Box::new(Validating { policies: Policies::follow(store, "validatingadmissionpolicies", "validatingadmissionpolicybindings") })
}

struct Validating {
    policies: Follow<Policies>,
}

/// What a refusal of one policy does to the request.
struct Refused {
    message: String,
    reason: String,
    /// Which validation.
    index: usize,
}

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let bound = self.policies.read().all();
        let mut denied: Option<Refused> = None;
        let mut told = Told::default();
        for (policy, binding) in bound {
            for refused in judge(server, &policy, &binding, admission, &mut told)? {
                let has = |action: &str| binding.actions.iter().any(|one| one == action);
                if has("Warn") {
                    admission.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, refused.message
                    ));
                }
                if has("Audit") {
                    told.failures.push(json!({
                        "message": refused.message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": refused.index, "validationActions": binding.actions,
                    }));
                }
                if has("Deny") && denied.is_none() {
                    let message = format!(
                        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
                        policy.name, binding.name, refused.message
                    );
                    denied = Some(Refused { message, ..refused });
                }
            }
        }
        told.annotate();
        match denied {
            Some(refused) => Err(refusal(admission, &refused.message, &refused.reason)),
            None => Ok(()),
        }
    }
}

/// What goes into the audit log.
#[derive(Default)]
struct Told {
    failures: Vec<Value>,
    annotations: BTreeMap<String, Vec<String>>,
}

impl Told {
    fn annotate(self) {
        if !self.failures.is_empty() {
            audit::annotate("validation.policy.admission.k8s.io/validation_failure", Value::from(self.failures).to_string());
        }
        for (key, values) in self.annotations {
            audit::annotate(key, values.join(", "));
        }
    }
}

fn judge(
    server: &Arc<Server>,
    policy: &Compiled,
    binding: &Binding,
    admission: &Admission,
    told: &mut Told,
) -> Result<Vec<Refused>, Status> {
    let Some(served) = concerned(server, policy, binding, admission) else { return Ok(Vec::new()) };
    let known = Known::of(server, admission, &served)?;
    let mut refused = Vec::new();
    let fail = |why: String, refused: &mut Vec<Refused>| {
        if policy.fails_closed {
            refused.push(Refused { message: why, reason: String::new(), index: 0 });
        }
    };
    match policy.policy.matches(&known.facts(None)) {
        Ok(true) => {}
        Ok(false) => return Ok(refused),
        Err(why) => {
            fail(why, &mut refused);
            return Ok(refused);
        }
    }
    let runs = match params(server, policy, binding, admission) {
        Ok(runs) => runs,
        Err(why) => {
            fail(format!("failed to configure binding: {why}"), &mut refused);
            return Ok(refused);
        }
    };
    for param in &runs {
        let param = Some(param).filter(|param: &&Value| !param.is_null());
        for (key, value) in policy.policy.audit(&known.facts(param)) {
            match value {
                Ok(text) => {
                    let values = told.annotations.entry(format!("{}/{key}", policy.name)).or_default();
                    if !values.contains(&text) {
                        values.push(text);
                    }
                }
                Err(why) => fail(why, &mut refused),
            }
        }
        for (index, verdict) in policy.policy.validate(&known.facts(param)).into_iter().enumerate() {
            match verdict {
                Verdict::Admit => {}
                Verdict::Deny(message, reason) => refused.push(Refused { message, reason, index }),
                Verdict::Error(why) => fail(why, &mut refused),
            }
        }
    }
    Ok(refused)
}
