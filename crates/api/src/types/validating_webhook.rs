//! `admissionregistration.v1.ValidatingWebhook`: a webhook that may refuse.

use crate::types::{Rules, webhook};

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default: webhook::default, ..Rules::of("admissionregistration.v1.ValidatingWebhook") }
}
