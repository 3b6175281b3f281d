//! Validating admission policies. Expressions are compiled by the server, which has the language.

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Generation, Kind, keep_all_but_status, keep_status, reset_status_of};
use crate::object::Object;
use crate::read::Read;
use crate::types::admission_policy::{self, SPEC};

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "admissionregistration.v1.ValidatingAdmissionPolicy"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(|policy, clock| admission_policy::policy_columns(policy, "validations", clock)),
        generation: Generation::Spec,
        ..Kind::plain("admissionregistration.k8s.io", "ValidatingAdmissionPolicy")
    }
}

fn validate(policy: &Object, causes: &mut Causes) {
    let spec = policy.map("spec");
    admission_policy::validate_policy(policy, causes);
    if spec.list("validations").is_empty() && spec.list("auditAnnotations").is_empty() {
        causes.needed(&SPEC.field("validations"), "validations or auditAnnotations must contain at least one item");
        causes.needed(&SPEC.field("auditAnnotations"), "validations or auditAnnotations must contain at least one item");
        return;
    }
    let list = SPEC.field("validations");
    for (index, validation) in spec.maps("validations").enumerate() {
        let at = list.index(index);
        if validation.text("expression").trim().is_empty() {
            causes.needed(&at.field("expression"), "expression is not specified");
        }
        causes.one_of(validation, "reason", &at, &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"]);
    }
    let list = SPEC.field("auditAnnotations");
    for (index, annotation) in spec.maps("auditAnnotations").enumerate() {
        let at = list.index(index);
        causes.need_text(annotation, "key", &at);
        if annotation.text("valueExpression").trim().is_empty() {
            causes.needed(&at.field("valueExpression"), "valueExpression is not specified");
        }
    }
}
