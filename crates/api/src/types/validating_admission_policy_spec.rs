//! `admissionregistration.v1.ValidatingAdmissionPolicySpec`: expressions that must hold.

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default: |map| map.default("failurePolicy", "Fail"), ..Rules::of("admissionregistration.v1.ValidatingAdmissionPolicySpec") }
}
