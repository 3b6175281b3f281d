//! Certificate signing: issues what was approved, for the signers of the cluster itself.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::{ResourceId, Selection};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, Signer, moment};

pub(crate) const REQUESTS: ResourceId = ResourceId::new("certificates.k8s.io", "v1", "certificatesigningrequests");

/// Signers whose requests are signed here; all others belong to somebody else.
const SIGNERS: [&str; 3] =
    ["kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"];

/// The controller.
pub fn controller(config: &Config) -> Entry {
    Entry { account: "certificate-controller", controller: Arc::new(CertificateSigning { signer: config.signer.clone() }) }
}

struct CertificateSigning {
    signer: Option<Arc<dyn Signer>>,
}

/// Whether a request has a condition.
pub(crate) fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == kind))
}

#[async_trait]
impl Controller for CertificateSigning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<CertificateSigningRequest>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(signer) = &self.signer else { return Ok(Next::Done) };
        let Some(mut request) = context.cache::<CertificateSigningRequest>().read::<CertificateSigningRequest>("", &key.name) else {
            return Ok(Next::Done);
        };
        let issued =
            request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty());
        let due = has(&request, "Approved") && !has(&request, "Denied") && !has(&request, "Failed") && !issued;
        if !due || !SIGNERS.contains(&request.spec.signer_name.as_str()) {
            return Ok(Next::Done);
        }
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        let usages = request.spec.usages.clone().unwrap_or_default();
        let signed = signer.sign(&pem, &request.spec.signer_name, &usages, request.spec.expiration_seconds);
        let status = request.status.get_or_insert_default();
        match signed {
            Ok(chain) => status.certificate = Some(ByteString(chain.into_bytes())),
            Err(message) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(message),
                last_update_time: Some(moment::now()),
                last_transition_time: None,
            }),
        }
        context.client.update_status(&request).await?;
        Ok(Next::Done)
    }
}
