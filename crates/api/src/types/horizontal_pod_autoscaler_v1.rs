//! `autoscaling.v1.HorizontalPodAutoscaler`: the older view of autoscalers.

use crate::read::Write;
use crate::types::Rules;

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default: |object| object.object_made("spec").default("minReplicas", 1), ..Rules::of("autoscaling.v1.HorizontalPodAutoscaler") }
}
