//! Signs certificate requests for the controllers: they decide, the keys stay with the cluster's own certificates.

use std::sync::Arc;
use std::time::Duration;

use controllers::Signer;
use pki::{Authority, ClusterPki, ParsedCsr, Usage};

/// Life of a certificate whose request names none.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest life that can be asked for.
const SHORTEST: Duration = Duration::from_secs(600);

/// Signs with the authorities of a cluster.
pub struct ClusterSigner {
    client_ca: Authority,
    server_ca: Authority,
    longest: Duration,
}

impl ClusterSigner {
    /// A signer over a cluster's authorities.
    pub fn new(pki: Arc<ClusterPki>) -> ClusterSigner {
        ClusterSigner { client_ca: pki.client_ca.clone(), server_ca: pki.server_ca.clone(), longest: LIFETIME }
    }

    /// A signer with one authority for everything, as in a cluster that kubeadm made.
    pub fn single(authority: Authority, longest: Duration) -> ClusterSigner {
        ClusterSigner { client_ca: authority.clone(), server_ca: authority, longest: longest.max(SHORTEST) }
    }

    /// The authority of a signer, once the request keeps the signer's rules.
    fn authority(&self, signer: &str, csr: &ParsedCsr, usages: &[Usage]) -> Result<&Authority, String> {
        let (checked, authority) = match signer {
            "kubernetes.io/kube-apiserver-client" => (csr.check_client(usages), &self.client_ca),
            "kubernetes.io/kube-apiserver-client-kubelet" => (csr.check_kubelet_client(usages), &self.client_ca),
            "kubernetes.io/kubelet-serving" => (csr.check_kubelet_serving(usages), &self.server_ca),
            _ => return Err(format!("no certificate authority signs for {signer:?}")),
        };
        checked.map(|()| authority).map_err(|error| error.to_string())
    }
}

impl Signer for ClusterSigner {
    fn sign(&self, request_pem: &str, signer_name: &str, usages: &[String], seconds: Option<i32>) -> Result<String, String> {
        let csr = ParsedCsr::from_pem(request_pem.as_bytes()).map_err(|error| error.to_string())?;
        let usages: Vec<Usage> = usages
            .iter()
            .map(|name| Usage::from_api(name).ok_or_else(|| format!("unrecognized usage {name:?}")))
            .collect::<Result<_, _>>()?;
        let authority = self.authority(signer_name, &csr, &usages)?;
        let asked = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let lifetime = asked.map_or(self.longest, |asked| asked.clamp(SHORTEST, self.longest));
        authority.sign_csr(&csr, &usages, lifetime).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use pki::{PrivateKey, San, Subject, build_csr};

    use super::*;

    #[test]
    fn each_signer_has_its_authority_and_rules() {
        let dir = std::env::temp_dir().join(format!("knarr-signer-{}", std::process::id()));
        let pki = Arc::new(ClusterPki::load_or_create(&dir).unwrap());
        let signer = ClusterSigner::new(pki.clone());
        let node = Subject::new("system:node:a", &["system:nodes"]);
        let user = Subject::new("jane", &["people"]);
        let name = [San::Dns("a".into())];
        let (client, serving) = (["digital signature", "client auth"], ["digital signature", "server auth"]);
        let (client_ca, server_ca) = (Some(&pki.client_ca), Some(&pki.server_ca));
        let cases: [(&str, &Subject, &[San], &[&str], Option<&Authority>); 7] = [
            ("kubernetes.io/kube-apiserver-client-kubelet", &node, &[], &client, client_ca),
            ("kubernetes.io/kube-apiserver-client-kubelet", &user, &[], &client, None),
            ("kubernetes.io/kubelet-serving", &node, &name, &serving, server_ca),
            ("kubernetes.io/kubelet-serving", &node, &[], &serving, None),
            ("kubernetes.io/kube-apiserver-client", &user, &[], &client, client_ca),
            ("kubernetes.io/kube-apiserver-client", &user, &[], &serving, None),
            ("example.com/other", &user, &[], &client, None),
        ];
        for (signer_name, subject, sans, usages, authority) in cases {
            let request = build_csr(&PrivateKey::generate().unwrap(), subject, sans).unwrap();
            let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
            let signed = signer.sign(&request, signer_name, &usages, Some(3600)).ok();
            assert_eq!(signed.is_some(), authority.is_some(), "{signer_name} {subject:?}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
