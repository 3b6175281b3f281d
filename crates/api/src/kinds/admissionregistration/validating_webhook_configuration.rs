//! Configurations of validating webhooks.

use crate::kind::{Generation, Kind};
use crate::types::webhook;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate: webhook::validate_all,
        validate_update: |new, _old, causes| webhook::validate_all(new, causes),
        columns: Some(webhook::columns),
        generation: Generation::Spec,
        ..Kind::plain("admissionregistration.k8s.io", "ValidatingWebhookConfiguration")
    }
}
