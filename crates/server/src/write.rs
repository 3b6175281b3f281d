//! What the steps of one write share: whose it is, which resource, which options, and the warnings so far.

use std::sync::Arc;

use api::{Object, Status, TypeRef};
use parking_lot::Mutex;
use patch::{Managed, ManagedBy};

use crate::catalog::Served;
use crate::request::Request;
use crate::server::Server;
use crate::steps::authorize::Allowed;
use crate::steps::convert;
use crate::steps::options::WriteOptions;
use crate::user::User;

/// One write.
pub struct Write<'a> {
    /// The server.
    pub server: &'a Arc<Server>,
    /// Proof that it may happen.
    pub allowed: &'a Allowed,
    /// The resource.
    pub served: &'a Arc<Served>,
    /// Options of the query.
    pub options: WriteOptions,
    warnings: Mutex<Vec<String>>,
    holds: Mutex<Vec<Box<dyn Send + Sync>>>,
}

impl<'a> Write<'a> {
    /// The write of a request; `options` is the kind of the options object, for messages.
    ///
    /// # Errors
    /// 422 for bad options.
    pub fn new(server: &'a Arc<Server>, request: &'a Request, options: &str) -> Result<Write<'a>, api::Status> {
        let options = WriteOptions::read(request, options)?;
        Ok(Write {
            server,
            allowed: &request.allowed,
            served: &request.served,
            options,
            warnings: Mutex::default(),
            holds: Mutex::default(),
        })
    }

    /// A write with options of its own.
    pub fn with_options(server: &'a Arc<Server>, allowed: &'a Allowed, served: &'a Arc<Served>, options: WriteOptions) -> Write<'a> {
        Write { server, allowed, served, options, warnings: Mutex::default(), holds: Mutex::default() }
    }

    /// Who writes.
    pub fn user(&self) -> &User {
        self.allowed.user()
    }

    /// Namespace of the path.
    pub fn namespace(&self) -> &str {
        if self.served.def.namespaced() { &self.allowed.attributes().namespace } else { "" }
    }

    /// Subresource of the path.
    pub fn subresource(&self) -> &str {
        &self.allowed.attributes().subresource
    }

    /// Tells the client something.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Tells the client several things.
    pub fn warn_all(&self, texts: Vec<String>) {
        texts.into_iter().for_each(|text| self.warn(text));
    }

    /// Keeps what admission holds until the write is over.
    pub fn hold(&self, holds: Vec<Box<dyn Send + Sync>>) {
        self.holds.lock().extend(holds);
    }

    /// What was told.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// A failure tells what was to be told, too.
    ///
    /// # Errors
    /// The failure.
    pub fn told<T>(&self, result: Result<T, Status>) -> Result<T, Status> {
        result.map_err(|mut status| {
            status.warnings.extend(self.take_warnings());
            status
        })
    }

    /// Keeps `managedFields` for a write that is no apply.
    pub fn manage(&self, live: Option<&Object>, new: &mut Object) {
        patch::managed::update(live, new, &self.managed_by(), &self.kind());
    }

    /// The kind as managed fields see it.
    pub fn kind(&self) -> KindOf<'_> {
        KindOf { server: self.server, served: self.served }
    }

    /// Who writes, for managed fields.
    pub fn managed_by(&self) -> ManagedBy<'_> {
        ManagedBy {
            manager: &self.options.manager,
            api_version: &self.served.api_version,
            subresource: self.subresource(),
            time: &self.options.now,
        }
    }
}

/// A kind as managed fields see it.
pub struct KindOf<'a> {
    /// The server.
    pub server: &'a Server,
    /// The resource.
    pub served: &'a Served,
}

impl Managed for KindOf<'_> {
    fn schema(&self, api_version: &str) -> Option<TypeRef> {
        let served = self.served;
        if served.api_version == api_version {
            return Some(served.schema().clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group != &*served.def.group {
            return None;
        }
        let catalog = self.server.catalog();
        catalog.find(group, version, &served.def.plural).map(|other| other.schema().clone())
    }

    fn convert(&self, object: &Object, api_version: &str) -> Option<Object> {
        convert::convert(self.served, object, api_version).ok()
    }

    fn reset(&self, subresource: &str) -> Vec<Vec<&'static str>> {
        let served = self.served;
        let name = if served.custom.is_some() { "" } else { &*served.def.kind };
        match subresource {
            "" if name == "CertificateSigningRequest" => vec![vec!["spec"], vec!["status"]],
            "status" if name == "CertificateSigningRequest" => vec![vec!["spec"], vec!["status", "conditions"]],
            "status" if name == "Deployment" => vec![vec!["spec"], vec!["metadata", "labels"]],
            "" if served.has_status() => vec![vec!["status"]],
            "status" if served.custom.is_some() => vec![vec!["spec"], vec!["metadata"]],
            "status" => served.kind.status_keeps.iter().map(|field| vec![*field]).collect(),
            _ => Vec::new(),
        }
    }
}
