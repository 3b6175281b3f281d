//! Port forwarding: connections that are made inside the pod's network name space.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use stream::{Body, PortForwardOptions};

use super::route::{self, Target};
use super::text;
use crate::Kubelet;
use crate::pods::model;

/// Serves a port-forward.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let pod = match route::pod(kubelet, target) {
        Ok(pod) => pod,
        Err(response) => return *response,
    };
    let Some(sandbox) = kubelet.pods.sandbox(model::uid(&pod)) else {
        return text(StatusCode::NOT_FOUND, "the pod has no running sandbox");
    };
    let options = PortForwardOptions { creation_timeout: Duration::from_secs(30) };
    sandbox.port_forward(options, request).await
}
