//! Who may approve and sign which certificate requests, and that nobody asks for the master group.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use base64::Engine;
use serde_json::Value;

use super::{Admission, Operation, Plugin};
use crate::attributes::Attributes;
use crate::authorize;
use crate::server::Server;
use crate::user::MASTERS;

/// Approval needs the verb `approve` on the signer.
pub fn approval() -> Box<dyn Plugin> {
    Box::new(CertificateApproval)
}

/// Signing needs the verb `sign` on the signer.
pub fn signing() -> Box<dyn Plugin> {
    Box::new(CertificateSigning)
}

/// Nobody gets a client certificate of `system:masters`.
pub fn subject_restriction() -> Box<dyn Plugin> {
    Box::new(CertificateSubjectRestriction)
}

struct CertificateApproval;
struct CertificateSigning;
struct CertificateSubjectRestriction;

fn is_request(admission: &Admission) -> bool {
    admission.is_any("certificates.k8s.io", "certificatesigningrequests")
}

fn signer(admission: &Admission) -> String {
    admission
        .old
        .as_deref()
        .or(admission.object.as_ref())
        .map(|request| request.text_at(&["spec", "signerName"]).to_owned())
        .unwrap_or_default()
}

fn check(server: &Server, admission: &Admission, verb: &'static str) -> Result<(), Status> {
    let signer = signer(admission);
    let wildcard = format!("{}/*", signer.split('/').next().unwrap_or(""));
    let may = [signer.clone(), wildcard].into_iter().any(|name| {
        let asked = Attributes {
            verb,
            group: "certificates.k8s.io".into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        authorize::decide(server, &admission.user, &asked).allowed
    });
    if may { Ok(()) } else { Err(admission.forbidden(&format!("user not permitted to {verb} requests with signerName {signer:?}"))) }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !is_request(admission) || admission.subresource != "approval" || admission.operation != Operation::Update {
            return Ok(());
        }
        check(server, admission, "approve")
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !is_request(admission) || admission.subresource != "status" || admission.operation != Operation::Update {
            return Ok(());
        }
        let part = |object: Option<&Object>, field: &str| object.and_then(|object| object.at(&["status", field]).cloned());
        let (new, old) = (admission.object.as_ref(), admission.old.as_deref());
        let certificate_same = part(new, "certificate") == part(old, "certificate");
        if certificate_same && part(new, "conditions") == part(old, "conditions") {
            return Ok(());
        }
        check(server, admission, "sign")
    }
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, _server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !is_request(admission) || admission.operation != Operation::Create || !admission.subresource.is_empty() {
            return Ok(());
        }
        if signer(admission) != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        let request = admission.object.as_ref().and_then(|object| object.at(&["spec", "request"])).and_then(Value::as_str).unwrap_or("");
        let pem = base64::engine::general_purpose::STANDARD.decode(request).unwrap_or_default();
        let masters = pki::ParsedCsr::from_pem(&pem).is_ok_and(|csr| csr.subject.organizations.iter().any(|group| group == MASTERS));
        if masters {
            return Err(
                admission.forbidden(&format!("use of kubernetes.io/kube-apiserver-client signer with {MASTERS} group is not allowed"))
            );
        }
        Ok(())
    }
}
