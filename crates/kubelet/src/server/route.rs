//! Paths of the kubelet's API and who serves them.

use std::sync::Arc;

use cri::engine::Sandbox;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerId, ContainerState};
use serde_json::json;
use stream::Body;

use super::access::Attributes;
use super::{attach, configz, exec, logs, metrics, port_forward, summary, text};
use crate::Kubelet;
use crate::pods::model;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Liveness of the kubelet, or of a part of it.
    Health(Option<&'static str>),
    /// The pods of this node.
    Pods,
    /// A container's log.
    Logs(Target),
    /// A command in a container.
    Exec(Target),
    /// A command whose output is the answer.
    Run(Target),
    /// The streams of a container.
    Attach(Target),
    /// Ports of a pod.
    PortForward(Target),
    /// Use of resources as JSON.
    Summary,
    /// The configuration in force.
    Configuration,
    /// Something that is there, but not by this method.
    OtherMethod,
    /// Metrics in text form: the kubelet's own, of containers, of resources.
    Metrics(&'static str),
}

/// Which container. Name of the container is empty for port-forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// UID, if the path names it.
    pub uid: String,
    /// Container.
    pub container: String,
}

/// Parts of the kubelet that are well as long as it answers.
const PARTS: [&str; 3] = ["ping", "log", "syncloop"];

/// The route of a path.
pub fn find(method: &Method, path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let target = |rest: &[&str], container: bool| -> Option<Target> {
        let (namespace, pod, uid, name) = match (rest, container) {
            ([namespace, pod, name], true) => (namespace, pod, "", *name),
            ([namespace, pod, uid, name], true) => (namespace, pod, *uid, *name),
            ([namespace, pod], false) => (namespace, pod, "", ""),
            ([namespace, pod, uid], false) => (namespace, pod, *uid, ""),
            _ => return None,
        };
        Some(Target { namespace: (*namespace).into(), pod: (*pod).into(), uid: uid.into(), container: name.into() })
    };
    let read = method == Method::GET;
    match parts.as_slice() {
        ["healthz"] if read => Some(Route::Health(None)),
        ["healthz", part] if read => PARTS.iter().find(|known| *known == part).map(|known| Route::Health(Some(known))),
        ["pods"] | ["runningpods"] if read => Some(Route::Pods),
        ["containerLogs", rest @ ..] if read => target(rest, true).map(Route::Logs),
        ["exec", rest @ ..] => target(rest, true).map(Route::Exec),
        ["run", rest @ ..] => target(rest, true).map(|target| if method == Method::POST { Route::Run(target) } else { Route::OtherMethod }),
        ["attach", rest @ ..] => target(rest, true).map(Route::Attach),
        ["portForward", rest @ ..] => target(rest, false).map(Route::PortForward),
        ["configz"] => Some(Route::Configuration),
        ["stats", "summary"] => Some(Route::Summary),
        ["metrics"] if read => Some(Route::Metrics("kubelet")),
        ["metrics", "cadvisor"] if read => Some(Route::Metrics("cadvisor")),
        ["metrics", "resource"] if read => Some(Route::Metrics("resource")),
        ["metrics", "slis"] if read => Some(Route::Metrics("slis")),
        ["metrics", "probes"] if read => Some(Route::Metrics("probes")),
        _ => None,
    }
}

impl Route {
    /// What the authorizer is asked about.
    pub fn attributes(&self) -> Attributes {
        let (verb, subresource) = match self {
            Route::Health(_) => ("get", "healthz"),
            Route::Pods => ("get", "pods"),
            Route::Logs(_) => ("get", "proxy"),
            Route::OtherMethod | Route::Exec(_) | Route::Run(_) | Route::Attach(_) | Route::PortForward(_) => ("create", "proxy"),
            Route::Configuration => ("get", "configz"),
            Route::Summary => ("get", "stats"),
            Route::Metrics(_) => ("get", "metrics"),
        };
        Attributes { verb, subresource }
    }
}

impl Route {
    /// Whether whoever may do everything here may do this too.
    pub fn also_by_proxy(&self) -> bool {
        matches!(self, Route::Health(_) | Route::Pods | Route::Configuration)
    }
}

/// Serves a call that was allowed.
pub async fn serve(kubelet: Arc<Kubelet>, route: Route, request: Request<Incoming>) -> Response<Body> {
    match route {
        Route::Health(None) => {
            let answer = kubelet.sources.checks().ask_the_living("healthz", &PARTS, request.uri().query().unwrap_or(""));
            text(StatusCode::OK, &answer.text)
        }
        Route::Health(Some(_)) => text(StatusCode::OK, "ok"),
        Route::Pods => {
            let pods: Vec<_> = kubelet.pods.pods().iter().filter_map(|pod| serde_json::to_value(&**pod).ok()).collect();
            super::json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
        }
        Route::Logs(target) => logs::serve(&kubelet, &target, request.uri().query().unwrap_or("")).await,
        Route::Exec(target) => exec::serve(&kubelet, &target, request).await,
        Route::Run(target) => exec::run(&kubelet, &target, request.uri().query().unwrap_or("")).await,
        Route::Attach(target) => attach::serve(&kubelet, &target, request).await,
        Route::PortForward(target) => port_forward::serve(&kubelet, &target, request).await,
        Route::OtherMethod => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        Route::Configuration => super::json(&configz::page(&kubelet)),
        Route::Summary => super::json(&summary::summary(&kubelet).await),
        Route::Metrics(kind) => text(StatusCode::OK, &metrics::metrics(&kubelet, kind).await),
    }
}

/// The pod of a target, as this node runs it.
pub fn pod(kubelet: &Kubelet, target: &Target) -> Result<Arc<Pod>, Box<Response<Body>>> {
    let found = kubelet.pods.find(&target.namespace, &target.pod).filter(|pod| target.uid.is_empty() || model::uid(pod) == target.uid);
    found.ok_or_else(|| Box::new(text(StatusCode::NOT_FOUND, &format!("pod {:?} does not exist", target.pod))))
}

/// The running container of a target.
pub async fn running(kubelet: &Kubelet, target: &Target) -> Result<(Sandbox, ContainerId), Box<Response<Body>>> {
    let pod = pod(kubelet, target)?;
    let missing = || Box::new(text(StatusCode::NOT_FOUND, &format!("container not found (\"{}\")", target.container)));
    let sandbox = kubelet.pods.sandbox(model::uid(&pod)).ok_or_else(missing)?;
    let statuses = sandbox.status().await.map_err(|error| Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())))?;
    let attempts = model::group(statuses).remove(&target.container).ok_or_else(missing)?;
    let latest = attempts.last().filter(|latest| latest.state == ContainerState::Running).ok_or_else(missing)?;
    Ok((sandbox, latest.id.clone()))
}

/// The values of a query parameter, decoded.
pub fn query_all(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('=').or(Some((pair, ""))));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).collect()
}

/// The first value of a query parameter, decoded.
pub fn query(query: &str, name: &str) -> Option<String> {
    query_all(query, name).into_iter().next()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
