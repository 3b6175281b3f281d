//! All odd subresources, one file each.

use std::sync::OnceLock;

use super::Subresource;
use super::{certificate_approval, namespace_finalize, pod_binding, pod_eviction, pod_part, proxy, scale, service_account_token, streams};

/// Every odd subresource.
pub(super) fn all() -> &'static [Box<dyn Subresource>] {
    static ALL: OnceLock<Vec<Box<dyn Subresource>>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            certificate_approval::subresource(),
            namespace_finalize::subresource(),
            pod_binding::subresource(),
            pod_eviction::subresource(),
            pod_part::subresource(),
            proxy::subresource(),
            scale::subresource(),
            service_account_token::subresource(),
            streams::subresource(),
        ]
    })
}
