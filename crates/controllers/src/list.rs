//! All controllers, one line for each file of this folder that exports one; a test proves the list complete.

use crate::{Config, Entry};

/// Every controller that has a file.
pub(crate) fn all(config: &Config) -> Vec<Entry> {
    vec![
        crate::attach_detach::controller(config),
        crate::bootstrap_signer::controller(config),
        crate::certificate_approval::controller(config),
        crate::certificate_cleaner::controller(config),
        crate::certificate_signing::controller(config),
        crate::clusterrole_aggregation::controller(config),
        crate::cron_job::controller(config),
        crate::daemon_set::controller(config),
        crate::deployment::controller(config),
        crate::disruption::controller(config),
        crate::endpoint_slice::controller(config),
        crate::endpoints::controller(config),
        crate::endpointslice_mirroring::controller(config),
        crate::ephemeral_volume::controller(config),
        crate::garbage_collector::controller(config),
        crate::horizontal_pod_autoscaler::controller(config),
        crate::job::controller(config),
        crate::local_path::controller(config),
        crate::namespace::controller(config),
        crate::node_ipam::controller(config),
        crate::node_lifecycle::controller(config),
        crate::pod_gc::controller(config),
        crate::pv_binder::controller(config),
        crate::pv_protection::controller(config),
        crate::pvc_protection::controller(config),
        crate::replica_set::controller(config),
        crate::replication_controller::controller(config),
        crate::resource_quota::controller(config),
        crate::root_ca::controller(config),
        crate::service_account::controller(config),
        crate::service_cidrs::controller(config),
        crate::stateful_set::controller(config),
        crate::taint_eviction::controller(config),
        crate::token_cleaner::controller(config),
        crate::token_secrets::controller(config),
        crate::ttl::controller(config),
        crate::ttl_after_finished::controller(config),
        crate::vac_protection::controller(config),
        crate::validating_admission_policy_status::controller(config),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let exports = std::fs::read_to_string(&path).unwrap().contains("\npub fn controller(");
            assert_eq!(exports, include_str!("list.rs").contains(&format!("crate::{name}::controller(config)")), "{name}");
        }
    }
}
