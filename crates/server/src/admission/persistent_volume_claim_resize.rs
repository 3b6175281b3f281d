//! A claim may grow only where its storage class allows it.

use std::sync::Arc;

use api::{Object, Quantity, Status};
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(PersistentVolumeClaimResize)
}

struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "persistentvolumeclaims") || admission.operation != Operation::Update {
            return Ok(());
        }
        let (Some(new), Some(old)) = (&admission.object, &admission.old) else { return Ok(()) };
        let size = |claim: &Object| claim.at(&["spec", "resources", "requests", "storage"]).and_then(Quantity::from_json);
        let grows = matches!((size(new), size(old)), (Some(new), Some(old)) if new > old);
        if !grows {
            return Ok(());
        }
        let class = old.text_at(&["spec", "storageClassName"]);
        let key = Kind::new(api::resources::storage_prefix("storage.k8s.io", "storageclasses", false)).key(class);
        let entry = server.store.mvcc().get(&key).value;
        let class = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.bytes).ok()).unwrap_or_default();
        if class["allowVolumeExpansion"] == true {
            return Ok(());
        }
        Err(admission
            .forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
    }
}
