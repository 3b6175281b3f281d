//! ComponentStatus: deprecated, still asked for by `kubectl get cs`.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use codec::ListHead;
use http::StatusCode;
use serde_json::{Value, json};

use super::Review;
use crate::attributes::Verb;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::encode::{self, Shape};

/// The parts of the control plane that the real server knows.
const NAMES: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

/// The review.
pub fn review() -> Box<dyn Review> {
    Box::new(ComponentStatuses)
}

struct ComponentStatuses;

#[async_trait]
impl Review for ComponentStatuses {
    fn resource(&self) -> (&'static str, &'static str) {
        ("", "componentstatuses")
    }

    async fn serve(&self, _server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        let objects: Vec<Object> = NAMES.iter().filter_map(|name| Object::from_value(status(name))).collect();
        let reply = match request.allowed.verb() {
            Verb::Get => {
                let name = &request.allowed.attributes().name;
                let object =
                    objects.iter().find(|object| object.name() == name).ok_or_else(|| Status::not_found("", "componentstatus", name))?;
                encode::object_reply(&request, StatusCode::OK, object)?
            }
            Verb::List => {
                let head = ListHead { api_version: "v1", kind: "ComponentStatusList", ..ListHead::default() };
                let value = if request.negotiated.shape == Shape::Table {
                    codec::table::table(&request.served.def, &head, &objects, encode::include(&request.query), &encode::clock())
                } else {
                    let items: Vec<Value> = objects.into_iter().map(Object::into_value).collect();
                    json!({"kind": head.kind, "apiVersion": "v1", "metadata": {}, "items": items})
                };
                encode::value_reply(
                    &encode::Negotiated { shape: Shape::Object, media: encode::Media::Json, ..request.negotiated },
                    StatusCode::OK,
                    &value,
                )?
            }
            _ => return Err(failure::method_not_allowed()),
        };
        Ok(reply)
    }
}

fn status(name: &str) -> Value {
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
    })
}
