//! OpenAPI documents v2 and v3, generated from the schema table and the resources.
//!
//! kubectl asks for them before it prints an explanation, validates a file or computes a patch: it looks for types by
//! the kind that stands beside them, and for operations by the query parameters that they take.

mod custom;
mod descriptions;
mod gnostic;
mod names;
mod paths;
mod schemas;

use std::sync::Arc;

use api::ResourceDef;
use serde_json::{Map, Value, json};

use schemas::Schemas;

pub use gnostic::v2_protobuf;

/// Which of the two forms is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": api::VERSION})
}

/// The document of one group version for `/openapi/v3/apis/<group>/<version>`: its paths and every type that they use.
/// Custom resources bring their schema in [`api::schema::Structural::schema`].
pub fn v3(resources: &[Arc<ResourceDef>]) -> Value {
    let mut schemas = Schemas::new(Dialect::V3);
    let paths = paths::paths(resources, Dialect::V3, &mut schemas);
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        },
    })
}

/// The document of the whole API for `/openapi/v2`.
pub fn v2(resources: &[Arc<ResourceDef>]) -> Value {
    let mut schemas = Schemas::new(Dialect::V2);
    let paths = paths::paths(resources, Dialect::V2, &mut schemas);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schemas.finish(),
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// A map made of pairs, without those that have no value.
fn object<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Map<String, Value> {
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests;
