//! Attaching to a running container: its own input and copies of its output.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use stream::{Body, RemoteCommandOptions};

use super::route::{self, Target};
use super::text;
use crate::Kubelet;

/// Serves an attach.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let options = match RemoteCommandOptions::from_query(request.uri().query()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    sandbox.attach(id, options, request).await
}
