//! How the client commands reach a cluster: by a kubeconfig, as kubectl does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{Client, Connect, HttpTransport, Token};
use http::{Method, Request, Response};
use pki::{HotCert, Issued, Kubeconfig, Resolved, ServerTrust};
use serde_json::Value;

/// The administrator's kubeconfig that a server writes.
pub(crate) const ADMIN: &str = "/etc/knarr/knarr.yaml";

/// Flags of every command that talks to a cluster.
#[derive(clap::Args, Clone)]
pub struct Access {
    /// Kubeconfig; else $KUBECONFIG, /etc/knarr/knarr.yaml or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one where absent.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace; that of the context where absent.
    #[arg(long, short = 'n', global = true)]
    pub namespace: Option<String>,
}

/// A cluster that can be called.
pub(crate) struct Cluster {
    /// Calls with whole answers.
    pub client: Client,
    /// Namespace that commands act in.
    pub namespace: String,
    /// Address, trust and credentials.
    pub resolved: Resolved,
}

impl Access {
    /// Reads the kubeconfig. No connection is made yet.
    pub(crate) fn connect(&self) -> Result<Cluster> {
        let path = self.path()?;
        let config = Kubeconfig::read(&path)?;
        let resolved = config.resolve(self.context.as_deref()).with_context(|| format!("use {}", path.display()))?;
        let token = resolved.bearer();
        let tls = Arc::new(tls(&resolved, &["h2"])?);
        let transport = HttpTransport::new(Connect { server: resolved.server.clone(), tls, token })?;
        let namespace = self.namespace.clone().or_else(|| resolved.namespace.clone()).unwrap_or_else(|| "default".to_owned());
        Ok(Cluster { client: Client::new(Arc::new(transport)), namespace, resolved })
    }

    /// As kubectl looks for it, and then where a server of this machine writes it.
    fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.kubeconfig {
            return Ok(path.clone());
        }
        let named = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        let named = named.iter().flat_map(std::env::split_paths);
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
        let found = named.chain([PathBuf::from(ADMIN)]).chain(home).find(|path| path.is_file());
        match found {
            Some(path) => Ok(path),
            None => bail!("no kubeconfig: give one with --kubeconfig or KUBECONFIG ({ADMIN} is not there)"),
        }
    }
}

/// Bearer tokens of a kubeconfig.
trait Bearer {
    fn bearer(&self) -> Option<Token>;
}

impl Bearer for Resolved {
    fn bearer(&self) -> Option<Token> {
        if let Some(token) = self.token.clone() {
            return Some(Arc::new(move || token.clone()));
        }
        let file = self.token_file.clone()?;
        // The file is read before each call, since it may be renewed.
        Some(Arc::new(move || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned()))
    }
}

/// The configuration of TLS for the protocols.
pub(crate) fn tls(resolved: &Resolved, alpn: &[&str]) -> Result<rustls::ClientConfig> {
    let trust = match (&resolved.ca_pem, resolved.insecure) {
        (_, true) => ServerTrust::Anybody,
        (Some(ca), false) => ServerTrust::Authorities(vec![ca.clone()]),
        (None, false) => bail!("the kubeconfig names no certificate authority"),
    };
    let certificate = match &resolved.client {
        Some(source) => Some(HotCert::new(Issued::from_pem(&source.cert_pem, &source.key_pem)?)?),
        None => None,
    };
    Ok(pki::client_config(&trust, certificate.as_ref(), alpn)?)
}

impl Cluster {
    /// The bearer token of the kubeconfig, if any.
    pub(crate) fn token(&self) -> Option<String> {
        self.resolved.bearer().map(|token| token())
    }

    /// A GET that is answered in the given form.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> Result<Value> {
        let request = Request::get(path).header("accept", accept).body(Bytes::new())?;
        let answer = self.client.transport().call(request).await?;
        serde_json::from_slice(answer.body()).context("the answer is no JSON")
    }

    /// A call with a body of the given form; the answer keeps its code.
    pub(crate) async fn send(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Result<Response<Bytes>, api::Status> {
        let request = Request::builder().method(method).uri(path).header("accept", "application/json").header("content-type", content_type);
        let request = request.body(Bytes::from(body)).map_err(|error| api::Status::bad_request(error.to_string()))?;
        self.client.transport().call(request).await
    }
}

/// Percent-encodes a part of a path or a value of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
