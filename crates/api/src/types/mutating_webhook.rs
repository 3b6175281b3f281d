//! `admissionregistration.v1.MutatingWebhook`: a webhook that may change objects.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::{Rules, webhook};

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("admissionregistration.v1.MutatingWebhook") }
}

fn default(map: &mut Map<String, Value>) {
    webhook::default(map);
    map.default("reinvocationPolicy", "Never");
}
