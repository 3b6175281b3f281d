//! A claim that names no storage class gets the default one, if there is one.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// Marks a default class.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(DefaultStorageClass)
}

struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "persistentvolumeclaims") || admission.operation != Operation::Create {
            return Ok(());
        }
        let Some(claim) = &admission.object else { return Ok(()) };
        let named = claim.at(&["spec", "storageClassName"]).is_some_and(|name| !name.is_null())
            || claim.annotation("volume.beta.kubernetes.io/storage-class").is_some();
        if named {
            return Ok(());
        }
        let Some(class) = default_class(server) else { return Ok(()) };
        if let Some(claim) = admission.change() {
            claim.map_at_mut(&["spec"]).insert("storageClassName".into(), Value::from(class));
        }
        Ok(())
    }
}

/// The newest of the classes marked as default.
fn default_class(server: &Server) -> Option<String> {
    let snapshot = server.store.mvcc().snapshot(&Kind::new("/registry/storageclasses/"));
    let classes = snapshot.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value));
    let mut marked: Vec<Object> = classes.filter(|class| class.annotation(DEFAULT) == Some("true")).collect();
    marked.sort_by(|left, right| {
        let made = |class: &Object| class.text_at(&["metadata", "creationTimestamp"]).to_owned();
        made(right).cmp(&made(left)).then_with(|| left.name().cmp(right.name()))
    });
    marked.first().map(|class| class.name().to_owned())
}
