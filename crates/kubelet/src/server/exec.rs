//! Commands in containers: `exec` over SPDY or WebSocket, and `run` with the output as the answer.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use stream::{Body, RemoteCommandOptions};

use super::route::{self, Target, query_all};
use super::text;
use crate::Kubelet;

/// Output of `run` that is kept.
const MAX_OUTPUT: usize = 16 << 20;

/// Serves an exec.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let options = match RemoteCommandOptions::from_query(Some(&query)) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    sandbox.exec(id, query_all(&query, "command"), options, request).await
}

/// Serves `run`: the command's output is the answer.
pub async fn run(kubelet: &Arc<Kubelet>, target: &Target, query: &str) -> Response<Body> {
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let given = query_all(query, "cmd").join(" ");
    let argv = given.split_whitespace().map(str::to_owned).collect();
    match sandbox.exec_sync(&id, argv, Some(Duration::from_secs(120)), MAX_OUTPUT).await {
        Ok(output) => text(StatusCode::OK, &String::from_utf8_lossy(&[output.stdout, output.stderr].concat())),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
