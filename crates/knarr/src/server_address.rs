//! A server's address follows the machine's: its certificates name the new one, and the Service `kubernetes` leads there, within a
//! moment. Agents and kubeconfigs that name the old address have to be told by whoever changed it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use pki::{ClusterPki, HotCert, PkiError, San};
use server::Server;
use tokio::sync::watch;

use crate::flags::ServerFlags;
use crate::node::{self, Cluster};
use crate::server::{self as startup, SERVING};
use crate::supervise::Supervisor;

/// Name of the kubelet's certificate in the folder of the server's.
const KUBELET: &str = "kubelet";

/// The certificate that a server's own kubelet serves with.
#[derive(Clone)]
pub struct KubeletCert {
    /// The certificate.
    pub cert: Arc<HotCert>,
    node: String,
}

impl KubeletCert {
    /// One for these addresses.
    ///
    /// # Errors
    /// It cannot be issued or kept.
    pub fn make(pki: &ClusterPki, node: &str, ips: &[IpAddr]) -> Result<KubeletCert, PkiError> {
        let cert = pki.serving_cert(KUBELET, &common_name(node), &sans(node, ips))?;
        Ok(KubeletCert { cert, node: node.to_owned() })
    }

    fn rename(&self, pki: &ClusterPki, ip: IpAddr) -> Result<(), PkiError> {
        pki.rename_serving(&self.cert, KUBELET, &common_name(&self.node), &sans(&self.node, &[ip]))
    }
}

fn common_name(node: &str) -> String {
    format!("system:node:{node}")
}

fn sans(node: &str, ips: &[IpAddr]) -> Vec<San> {
    ips.iter().copied().map(San::Ip).chain([San::Dns(node.to_owned())]).collect()
}

/// What changes with the machine's address.
#[derive(Clone)]
pub struct Follower {
    /// Flags of the server.
    pub flags: ServerFlags,
    /// Its cluster.
    pub cluster: Cluster,
    /// The API server.
    pub server: Arc<Server>,
    /// Who issues its certificates.
    pub pki: Arc<ClusterPki>,
    /// What the API server serves with.
    pub serving: Arc<HotCert>,
    /// What the kubelet serves with, where there is one.
    pub kubelet: Option<KubeletCert>,
    /// Addresses that no node gets.
    pub reserved: watch::Sender<Vec<IpAddr>>,
}

/// Follows the machine's address until the server ends.
pub fn follow(follower: Follower, supervisor: &Supervisor) {
    supervisor.run("addresses", move || {
        let follower = follower.clone();
        Box::pin(async move {
            let (mut addresses, mut now) = net::AddressWatch::open()?;
            let mut known = None;
            loop {
                let ip = now.as_ref().and_then(node::primary);
                // A machine without an address keeps its last one.
                if ip.is_some() && ip != known {
                    follower.take(ip.expect("it was just looked at")).await?;
                    known = ip;
                }
                now = addresses.changed().await?;
            }
        })
    });
}

impl Follower {
    async fn take(&self, ip: IpAddr) -> Result<()> {
        let advertise = self.flags.advertise_address.unwrap_or(ip);
        let before = self.serving.current().sans()?;
        if before.contains(&San::Ip(ip)) && self.server.advertised() == advertise {
            return Ok(());
        }
        tracing::info!(%ip, "the server has another address");
        self.pki.rename_serving(&self.serving, SERVING, SERVING, &startup::sans(&self.flags, &self.cluster, advertise, &[ip])?)?;
        if let Some(kubelet) = &self.kubelet {
            kubelet.rename(&self.pki, ip)?;
        }
        self.reserved.send_replace(startup::reserved(&self.cluster, advertise, &[ip]));
        self.server.advertise(advertise).await;
        Ok(())
    }
}
