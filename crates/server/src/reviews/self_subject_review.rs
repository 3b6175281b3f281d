//! SelfSubjectReview: who am I?

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::json;

use super::{Review, answered};
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::options::now;

/// The review.
pub fn review() -> Box<dyn Review> {
    Box::new(SelfSubjectReview)
}

struct SelfSubjectReview;

#[async_trait]
impl Review for SelfSubjectReview {
    fn resource(&self) -> (&'static str, &'static str) {
        ("authentication.k8s.io", "selfsubjectreviews")
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        answered(server, request, |request, review| {
            review.set_meta("creationTimestamp", now());
            review.0.insert("status".into(), json!({"userInfo": request.allowed.user().to_value()}));
            Ok(())
        })
        .await
    }
}
