//! `batch.v1.PodFailurePolicyOnPodConditionsPattern`: a pod condition that a Job reacts to.

use serde_json::{Map, Value};

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("batch.v1.PodFailurePolicyOnPodConditionsPattern") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("status", "True");
}
