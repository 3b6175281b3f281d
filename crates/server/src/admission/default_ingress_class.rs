//! An ingress that names no class gets the default one, if there is exactly one.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(DefaultIngressClass)
}

struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("networking.k8s.io", "ingresses") || admission.operation != Operation::Create {
            return Ok(());
        }
        let Some(ingress) = &admission.object else { return Ok(()) };
        let named = ingress.at(&["spec", "ingressClassName"]).is_some_and(|name| !name.is_null())
            || ingress.annotation("kubernetes.io/ingress.class").is_some();
        if named {
            return Ok(());
        }
        let snapshot =
            server.store.mvcc().snapshot(&Kind::new(api::resources::storage_prefix("networking.k8s.io", "ingressclasses", false)));
        let classes = snapshot.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value));
        let mut marked: Vec<Object> = classes.filter(|class| class.annotation(DEFAULT) == Some("true")).collect();
        marked.sort_by(|left, right| {
            let made = |class: &Object| class.text_at(&["metadata", "creationTimestamp"]).to_owned();
            made(right).cmp(&made(left)).then_with(|| left.name().cmp(right.name()))
        });
        let Some(class) = marked.first().map(|class| class.name().to_owned()) else { return Ok(()) };
        if let Some(ingress) = admission.change() {
            ingress.map_at_mut(&["spec"]).insert("ingressClassName".into(), class.into());
        }
        Ok(())
    }
}
