//! The plugins in upstream's order. The order is part of the behaviour: a later plugin sees what an earlier one set.

use std::sync::Arc;

use store::Store;

use super::Plugin;
use super::{
    certificate_requests, default_ingress_class, default_storage_class, default_toleration_seconds, limit_ranger, namespace_lifecycle,
    node_restriction, persistent_volume_claim_resize, pod_security, policies, priority, rbac_escalation, resource_quota, runtime_class,
    service_account, storage_object_in_use_protection, taint_nodes_by_condition, webhooks,
};

/// All plugins that are on by default.
pub(super) fn plugins(store: Arc<dyn Store>) -> Vec<Box<dyn Plugin>> {
    vec![
        namespace_lifecycle::plugin(),
        limit_ranger::plugin(),
        service_account::plugin(),
        node_restriction::plugin(),
        taint_nodes_by_condition::plugin(),
        pod_security::plugin(),
        priority::plugin(),
        default_toleration_seconds::plugin(),
        default_storage_class::plugin(),
        storage_object_in_use_protection::plugin(),
        persistent_volume_claim_resize::plugin(),
        runtime_class::plugin(),
        certificate_requests::approval(),
        certificate_requests::signing(),
        certificate_requests::subject_restriction(),
        default_ingress_class::plugin(),
        rbac_escalation::plugin(),
        policies::mutating(store.clone()),
        webhooks::mutating(store.clone()),
        policies::validating(store.clone()),
        webhooks::validating(store),
        resource_quota::plugin(),
    ]
}
