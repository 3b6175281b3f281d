//! Certificate approval: lets nodes have the client certificates that their role entitles them to, and no others.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use pki::{ParsedCsr, Usage};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::certificate_signing::{REQUESTS, has};
use crate::{Config, Entry, moment};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// What a request may be, the right it takes, and the words of the approval; the narrower comes first.
const KINDS: [(bool, &str, &str); 2] = [
    (true, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    (false, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "certificate-controller", controller: Arc::new(CertificateApproval) }
}

struct CertificateApproval;

#[async_trait]
impl Controller for CertificateApproval {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<CertificateSigningRequest>())]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(mut request) = context.cache::<CertificateSigningRequest>().read::<CertificateSigningRequest>("", &key.name) else {
            return Ok(Next::Done);
        };
        if has(&request, "Approved") || has(&request, "Denied") {
            return Ok(Next::Done);
        }
        let own = match asked(&request) {
            Some(own) => own,
            None => return Ok(Next::Done),
        };
        for (needs_own, right, message) in KINDS {
            if (needs_own && !own) || !allowed(context, &request, right).await? {
                continue;
            }
            let condition = CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(message.into()),
                last_update_time: Some(moment::now()),
                last_transition_time: None,
            };
            request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
            let path = REQUESTS.path("", &key.name, "approval");
            context.client.call(http::Method::PUT, &path, &serde_json::to_value(&request)?).await?;
            return Ok(Next::Done);
        }
        Ok(Next::Done)
    }
}

/// Whether this asks for a node's client certificate, and if so, whether the node itself asks.
fn asked(request: &CertificateSigningRequest) -> Option<bool> {
    let spec = &request.spec;
    if spec.signer_name != CLIENT {
        return None;
    }
    let csr = ParsedCsr::from_pem(&spec.request.0).ok()?;
    let usages: Option<Vec<Usage>> = spec.usages.iter().flatten().map(|usage| Usage::from_api(usage)).collect();
    csr.check_kubelet_client(&usages?).ok()?;
    Some(spec.username.as_deref() == Some(&*csr.subject.common_name))
}

async fn allowed(context: &Context, request: &CertificateSigningRequest, right: &str) -> Result<bool> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                subresource: Some(right.into()),
                verb: Some("create".into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = context.client.create(&review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use pki::{PrivateKey, Subject, build_csr};

    use super::*;

    #[test]
    fn only_client_certificates_of_nodes_are_judged() {
        let cases = [
            (CLIENT, "system:node:a", "system:nodes", "client auth", "system:node:a", Some(true)),
            (CLIENT, "system:node:a", "system:nodes", "client auth", "system:bootstrap:abcdef", Some(false)),
            (CLIENT, "system:node:a", "system:masters", "client auth", "system:node:a", None),
            (CLIENT, "jane", "system:nodes", "client auth", "jane", None),
            (CLIENT, "system:node:a", "system:nodes", "server auth", "system:node:a", None),
            ("kubernetes.io/kubelet-serving", "system:node:a", "system:nodes", "client auth", "system:node:a", None),
        ];
        for (signer, name, group, usage, user, expected) in cases {
            let pem = build_csr(&PrivateKey::generate().unwrap(), &Subject::new(name, &[group]), &[]).unwrap();
            let request = CertificateSigningRequest {
                spec: CertificateSigningRequestSpec {
                    request: ByteString(pem.into_bytes()),
                    signer_name: signer.into(),
                    usages: Some(vec!["digital signature".into(), usage.into()]),
                    username: Some(user.into()),
                    ..CertificateSigningRequestSpec::default()
                },
                ..CertificateSigningRequest::default()
            };
            assert_eq!(asked(&request), expected, "{signer} {name} {group} {usage} {user}");
        }
    }
}
