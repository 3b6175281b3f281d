//! Volumes and claims get the finalizers that keep them while they are in use.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(StorageObjectInUseProtection)
}

struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, _server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if admission.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if admission.is("", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if admission.is("", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else if admission.is("storage.k8s.io", "volumeattributesclasses") {
            "kubernetes.io/vac-protection"
        } else {
            return Ok(());
        };
        let Some(object) = admission.change() else { return Ok(()) };
        let mut finalizers: Vec<String> = object.finalizers().map(str::to_owned).collect();
        if !finalizers.iter().any(|one| one == finalizer) {
            finalizers.push(finalizer.to_owned());
            object.set_meta("finalizers", finalizers);
        }
        Ok(())
    }
}
