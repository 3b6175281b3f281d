//! TokenReview: whose token is this?

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Review, answered};
use crate::authenticate::{Found, audiences, by_token};
use crate::request::{Reply, Request};
use crate::server::Server;

/// The review.
pub fn review() -> Box<dyn Review> {
    Box::new(TokenReview)
}

struct TokenReview;

#[async_trait]
impl Review for TokenReview {
    fn resource(&self) -> (&'static str, &'static str) {
        ("authentication.k8s.io", "tokenreviews")
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        answered(server, request, |_, review| {
            let token = review.text_at(&["spec", "token"]).to_owned();
            if token.is_empty() {
                return Err(Status::bad_request("token is required for TokenReview in authentication"));
            }
            let asked: Vec<String> = review
                .at(&["spec", "audiences"])
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let own = audiences(server);
            let accepted = if asked.is_empty() { own } else { asked.clone() };
            let status = match crate::wait::wait(by_token(server, &token, &accepted)) {
                Found::User(mut user) => {
                    user.mark_authenticated();
                    let mut status = json!({"authenticated": true, "user": user.to_value()});
                    let found = server.tokens.verify(&token, &accepted).map(|verified| verified.audiences.clone());
                    status["audiences"] = json!(found.unwrap_or(accepted));
                    status
                }
                Found::Nothing => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
                Found::Refused(why) => json!({"authenticated": false, "user": {}, "error": format!("[invalid bearer token, {why}]")}),
            };
            review.0.insert("status".into(), status);
            Ok(())
        })
        .await
    }
}
