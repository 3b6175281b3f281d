//! `autoscaling.v1.HorizontalPodAutoscaler`: the older view of autoscalers.

use serde_json::{Map, Value};

use crate::read::{Read, Write};
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("autoscaling.v1.HorizontalPodAutoscaler") }
}

fn default(map: &mut Map<String, Value>) {
    // Metrics of v2 travel in annotations; without any there is the CPU.
    let other_metrics = map.map("metadata").map("annotations").contains_key("autoscaling.alpha.kubernetes.io/metrics");
    let spec = map.object_made("spec");
    spec.default("minReplicas", 1);
    if !other_metrics {
        spec.default("targetCPUUtilizationPercentage", 80);
    }
}
