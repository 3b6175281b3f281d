//! Every pod has a service account, and its token mounted in the place where clients look for it.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;
use crate::steps::prepare;

/// Where clients look for their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime of tokens in pods: a bit more than an hour, so that the server can tell them and extend them.
const EXPIRATION: i64 = 3607;
/// Marks the mirror of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(ServiceAccount)
}

struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "pods") || admission.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = &admission.object else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(admission, pod);
        }
        let name = match pod.text_at(&["spec", "serviceAccountName"]) {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        let account = find(server, &admission.namespace, &name).ok_or_else(|| {
            let why = format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", admission.namespace);
            admission.forbidden(&why)
        })?;
        let pod = admission.change().expect("a creation has an object");
        let spec = pod.map_at_mut(&["spec"]);
        spec.insert("serviceAccountName".into(), name.as_str().into());
        spec.insert("serviceAccount".into(), name.as_str().into());
        let automount = spec
            .get("automountServiceAccountToken")
            .and_then(Value::as_bool)
            .or_else(|| account.get("automountServiceAccountToken").and_then(Value::as_bool))
            .unwrap_or(true);
        if automount {
            mount_token(spec);
        }
        if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            if let Some(secrets) = account.get("imagePullSecrets").and_then(Value::as_array).filter(|secrets| !secrets.is_empty()) {
                spec.insert("imagePullSecrets".into(), secrets.clone().into());
            }
        }
        Ok(())
    }
}

fn find(server: &Server, namespace: &str, name: &str) -> Option<Object> {
    let key = Kind::new("/registry/serviceaccounts/").key(format!("{namespace}/{name}"));
    let entry = server.store.mvcc().get(&key).value?;
    codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)
}

/// Mirrors come from kubelets and may not use what only the API can give.
fn check_mirror(admission: &Admission, pod: &Object) -> Result<(), Status> {
    if !pod.text_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(admission.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let tokens =
            volume["projected"]["sources"].as_array().into_iter().flatten().any(|source| source["serviceAccountToken"].is_object());
        if volume["secret"].is_object() {
            return Err(admission.forbidden("a mirror pod may not reference secrets"));
        }
        if tokens {
            return Err(admission.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

fn mount_token(spec: &mut Map<String, Value>) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let own = volumes.into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with("kube-api-access-").then(|| name.to_owned())
    });
    let name = own.clone().unwrap_or_else(|| prepare::generate("kube-api-access-"));
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            let mounts = mounts.as_array_mut().expect("just made a list");
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
                needed = true;
            }
        }
    }
    if needed && own.is_none() {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if !volumes.is_array() {
            *volumes = json!([]);
        }
        volumes.as_array_mut().expect("just made a list").push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": EXPIRATION}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}
