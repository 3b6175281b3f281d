//! What a node must know about its cluster, as the object that the server publishes and every node may read.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Cluster;

/// Facts of a cluster, in the words of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Range of pod addresses.
    pub pod_range: String,
    /// Range of service addresses.
    pub service_range: String,
    /// Address of the cluster DNS.
    pub dns_address: String,
    /// Domain of the cluster.
    pub domain: String,
    /// UDP port of the overlay.
    pub overlay_port: String,
    /// PEM of the authority of servers and kubelets.
    pub server_ca: String,
    /// PEM of the authority of clients.
    pub client_ca: String,
}

impl Facts {
    /// Name of the ConfigMap in `kube-system`.
    pub const NAME: &str = "knarr-cluster";
    /// Its path.
    pub const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/knarr-cluster";

    /// The facts of a cluster.
    pub fn of(cluster: &Cluster, server_ca: &str, client_ca: &str) -> Facts {
        Facts {
            pod_range: cluster.pods.to_string(),
            service_range: cluster.services.to_string(),
            dns_address: cluster.dns.to_string(),
            domain: cluster.domain.clone(),
            overlay_port: cluster.overlay_port.to_string(),
            server_ca: server_ca.to_owned(),
            client_ca: client_ca.to_owned(),
        }
    }

    /// The object that carries them.
    pub fn config_map(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": Facts::NAME, "namespace": "kube-system"},
            "data": serde_json::to_value(self).expect("a struct of texts"),
        })
    }

    /// Reads them from the object.
    ///
    /// # Errors
    /// A fact is missing.
    pub fn read(config_map: &Value) -> Result<Facts> {
        serde_json::from_value(config_map["data"].clone())
            .with_context(|| format!("ConfigMap kube-system/{} does not describe the cluster", Facts::NAME))
    }

    /// The cluster that they describe.
    ///
    /// # Errors
    /// A range, an address or a port that is none.
    pub fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster {
            pods: self.pod_range.parse().with_context(|| format!("pod range {:?}", self.pod_range))?,
            services: self.service_range.parse().with_context(|| format!("service range {:?}", self.service_range))?,
            dns: self.dns_address.parse().with_context(|| format!("DNS address {:?}", self.dns_address))?,
            domain: self.domain.clone(),
            overlay_port: self.overlay_port.parse().with_context(|| format!("overlay port {:?}", self.overlay_port))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_object() {
        let cluster = Cluster {
            pods: "10.1.0.0/16".parse().unwrap(),
            services: "10.2.0.0/16".parse().unwrap(),
            dns: "10.2.0.10".parse().unwrap(),
            domain: "cluster.local".into(),
            overlay_port: 8472,
        };
        let facts = Facts::of(&cluster, "one", "two");
        let read = Facts::read(&facts.config_map()).unwrap();
        assert_eq!(read, facts);
        assert_eq!(format!("{:?}", read.cluster().unwrap()), format!("{cluster:?}"));
        assert!(Facts::read(&json!({"data": {"podRange": "10.1.0.0/16"}})).is_err());
    }
}
