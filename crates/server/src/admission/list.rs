//! The plugins in upstream's order. The order is part of the behaviour: a later plugin sees what an earlier one set.

use std::sync::Arc;

use store::Store;

use super::Plugin;
use super::{
    default_storage_class, default_toleration_seconds, namespace_lifecycle, priority, service_account,
    storage_object_in_use_protection, taint_nodes_by_condition,
};

/// All plugins that are on by default.
pub(super) fn plugins(_store: Arc<dyn Store>) -> Vec<Box<dyn Plugin>> {
    vec![
        namespace_lifecycle::plugin(),
        service_account::plugin(),
        taint_nodes_by_condition::plugin(),
        priority::plugin(),
        default_toleration_seconds::plugin(),
        default_storage_class::plugin(),
        storage_object_in_use_protection::plugin(),
    ]
}
