//! Flags about what is kept from pods and how processors and memory are given to them; their names are the real kubelet's.

use clap::Args;
use kubelet::placement::{Options, OptionsError, Words};

/// Flags that server and agent share.
#[derive(Args, Clone)]
pub struct PlacementFlags {
    /// How processors are given: none, or static for whole ones of their own to guaranteed pods.
    #[arg(long, default_value = "none", value_name = "POLICY", help_heading = "Node")]
    pub cpu_manager_policy: String,
    /// Options of the static policy, for example full-pcpus-only=true.
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Node")]
    pub cpu_manager_policy_options: String,
    /// Processors that are kept for the system, for example 0-1.
    #[arg(long, default_value = "", value_name = "CPUS", help_heading = "Node")]
    pub reserved_cpus: String,
    /// What is kept for Kubernetes itself, for example cpu=500m,memory=500Mi.
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Node")]
    pub kube_reserved: String,
    /// What is kept for the rest of the system, likewise.
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Node")]
    pub system_reserved: String,
    /// How memory is given: None, or Static from few NUMA nodes to guaranteed pods.
    #[arg(long, default_value = "None", value_name = "POLICY", help_heading = "Node")]
    pub memory_manager_policy: String,
    /// Memory that is kept on each NUMA node, for example 0:memory=1Gi;1:memory=1Gi.
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Node")]
    pub reserved_memory: String,
    /// How near to each other a pod's resources have to be: none, best-effort, restricted, single-numa-node.
    #[arg(long, default_value = "none", value_name = "POLICY", help_heading = "Node")]
    pub topology_manager_policy: String,
    /// For what nodes are picked together: container or pod.
    #[arg(long, default_value = "container", value_name = "SCOPE", help_heading = "Node")]
    pub topology_manager_scope: String,
    /// Options of that policy, for example prefer-closest-numa-nodes=true.
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Node")]
    pub topology_manager_policy_options: String,
}

impl PlacementFlags {
    /// What they say.
    ///
    /// # Errors
    /// They say nothing.
    pub fn options(&self) -> Result<Options, OptionsError> {
        Options::parse(&Words {
            cpu_policy: self.cpu_manager_policy.clone(),
            cpu_options: self.cpu_manager_policy_options.clone(),
            reserved_cpus: self.reserved_cpus.clone(),
            kube_reserved: self.kube_reserved.clone(),
            system_reserved: self.system_reserved.clone(),
            memory_policy: self.memory_manager_policy.clone(),
            reserved_memory: self.reserved_memory.clone(),
            topology_policy: self.topology_manager_policy.clone(),
            topology_scope: self.topology_manager_scope.clone(),
            topology_options: self.topology_manager_policy_options.clone(),
        })
    }
}
