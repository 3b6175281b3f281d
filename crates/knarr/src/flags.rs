//! The command line. Flags of `server` and `agent` follow k3s's names, since people's scripts know them.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use ipnet::IpNet;

use crate::placement_flags::PlacementFlags;
use crate::security_flags::SecurityFlags;
use crate::twins::{self, Twin};

/// k3s's share of the disk rather than upstream's 10 and 15 %: machines on which people try a cluster are often fuller.
const EVICTION_HARD: &str = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%";

/// Kubernetes as one small, fast program.
#[derive(Parser)]
#[command(name = "knarr", version = api::VERSION, arg_required_else_help = true, args_override_self = true)]
#[command(
    after_help = "Examples:\n  knarr server                         # a one-node cluster\n  knarr status --wait                  # until node and DNS are ready\n  knarr agent --server https://10.0.0.1:6443 --token K10..."
)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server: the whole control plane and a node.
    Server(Box<ServerFlags>),
    /// Run a further node of a cluster.
    Agent(Box<AgentFlags>),
    /// Run the container runtime alone, behind a CRI socket, for any kubelet.
    Runtime(Box<crate::node::cri::RuntimeFlags>),
    /// Run the API server alone, with the flags of the real one.
    #[command(disable_help_flag = true)]
    KubeApiserver(TwinFlags),
    /// Run a node alone, with the flags and the configuration of the real kubelet.
    #[command(disable_help_flag = true)]
    Kubelet(TwinFlags),
    /// Run the service proxy alone, with the flags and the configuration of the real one.
    #[command(disable_help_flag = true)]
    KubeProxy(TwinFlags),
    /// Run the scheduler alone, with the flags of the real one.
    #[command(disable_help_flag = true)]
    KubeScheduler(TwinFlags),
    /// Run the controllers alone, with the flags of the real controller manager.
    #[command(disable_help_flag = true)]
    KubeControllerManager(TwinFlags),
    /// Run the cluster's DNS alone, with the flags and the Corefile of CoreDNS.
    #[command(disable_help_flag = true, name = "coredns")]
    CoreDns(TwinFlags),
    /// Print a completion script.
    Completion {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Commands that talk to a running cluster.
    #[command(flatten)]
    Client(cli::Command),
}

/// Flags of a component of its own, which reads them itself: they are those of the real one.
#[derive(Args)]
pub struct TwinFlags {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    arguments: Vec<OsString>,
}

/// Flags that server and agent share.
#[derive(Args, Clone)]
pub struct NodeFlags {
    /// (config) Read flags from a YAML file whose keys are flag names.
    #[arg(long, short = 'c', env = "KNARR_CONFIG_FILE", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// (data) Folder that holds everything that must survive.
    #[arg(long, short = 'd', default_value = "/var/lib/knarr", env = "KNARR_DATA_DIR", value_name = "DIR", help_heading = "Data")]
    pub data_dir: PathBuf,
    /// Folder for sockets and the state of running containers.
    #[arg(long, default_value = "/run/knarr", value_name = "DIR", help_heading = "Data")]
    pub run_dir: PathBuf,
    /// (agent/node) Name of the node; the host's name where absent.
    #[arg(long, env = "KNARR_NODE_NAME", help_heading = "Node")]
    pub node_name: Option<String>,
    /// Address of the node; that of the default route where absent.
    #[arg(long, short = 'i', value_delimiter = ',', help_heading = "Node")]
    pub node_ip: Vec<IpAddr>,
    /// Label given to the node at registration (key=value).
    #[arg(long, value_name = "LABEL", help_heading = "Node")]
    pub node_label: Vec<String>,
    /// Taint given to the node at registration (key=value:effect).
    #[arg(long, value_name = "TAINT", help_heading = "Node")]
    pub node_taint: Vec<String>,
    /// Most pods of the node.
    #[arg(long, default_value_t = 110, help_heading = "Node")]
    pub max_pods: u32,
    /// CPUs that the node says to have, for example 2 or 500m.
    #[arg(long, value_name = "QUANTITY", help_heading = "Node")]
    pub node_cpu: Option<String>,
    /// Memory that the node says to have, for example 4Gi.
    #[arg(long, value_name = "QUANTITY", help_heading = "Node")]
    pub node_memory: Option<String>,
    /// Pods are evicted while less than this is left (signal<amount or signal<per cent).
    #[arg(long, default_value = EVICTION_HARD, value_name = "LIST", help_heading = "Node")]
    pub eviction_hard: String,
    /// Settings of the node in the form of the real kubelet's own file (KubeletConfiguration); flags win.
    #[arg(long, value_name = "FILE", help_heading = "Node")]
    pub kubelet_config: Option<PathBuf>,
    /// Per cent of the disk in use at which unused images are removed; 100 for never.
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = "Node")]
    pub image_gc_high_threshold: u8,
    /// Per cent of the disk in use to which that goes on.
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = "Node")]
    pub image_gc_low_threshold: u8,
    #[command(flatten)]
    pub placement: PlacementFlags,
    /// Folder of pods and volumes.
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR", help_heading = "Node")]
    pub kubelet_root: PathBuf,
    /// Folder of pods' logs; links to them are made in `containers` beside it.
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR", help_heading = "Node")]
    pub pod_logs: PathBuf,
    /// Folder of static pods.
    #[arg(long, value_name = "DIR", help_heading = "Node")]
    pub pod_manifests: Option<PathBuf>,
    /// Port of the kubelet.
    #[arg(long, default_value_t = 10250, help_heading = "Node")]
    pub kubelet_port: u16,
    /// Control group below which everything of this node lives.
    #[arg(long, default_value = "knarr", help_heading = "Node")]
    pub cgroup_root: String,
    /// Resolver configuration for pods that use the node's and for names outside the cluster.
    #[arg(long, default_value = "/etc/resolv.conf", help_heading = "Node")]
    pub resolv_conf: PathBuf,
    /// Socket of another container runtime, for example unix:///run/containerd/containerd.sock; its own where absent.
    #[arg(long, value_name = "ADDRESS", help_heading = "Node")]
    pub container_runtime_endpoint: Option<String>,
    /// Mirrors, credentials and certificates of registries, in the form of k3s.
    #[arg(long, default_value = "/etc/knarr/registries.yaml", value_name = "FILE", help_heading = "Node")]
    pub private_registry: PathBuf,
    /// Log levels: error, warn, info, debug or per component, for example info,scheduler=debug.
    #[arg(long, default_value = "info", env = "KNARR_LOG_LEVEL", help_heading = "Logging")]
    pub log_level: String,
    /// Form of the log.
    #[arg(long, default_value = "text", value_parser = ["text", "json"], help_heading = "Logging")]
    pub log_format: String,
}

/// Flags of `knarr server`.
#[derive(Args, Clone)]
pub struct ServerFlags {
    #[command(flatten)]
    pub node: NodeFlags,
    /// Address that the API server binds.
    #[arg(long, default_value = "0.0.0.0", help_heading = "Listener")]
    pub bind_address: IpAddr,
    /// Port of the API server.
    #[arg(long, default_value_t = 6443, help_heading = "Listener")]
    pub https_listen_port: u16,
    /// Address that others reach the API server at; the node's where absent.
    #[arg(long, help_heading = "Listener")]
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses of the serving certificate.
    #[arg(long, value_delimiter = ',', help_heading = "Listener")]
    pub tls_san: Vec<String>,
    /// (networking) Range of pod addresses.
    #[arg(long, default_value = "10.42.0.0/16", help_heading = "Networking")]
    pub cluster_cidr: IpNet,
    /// Range of service addresses.
    #[arg(long, default_value = "10.43.0.0/16", help_heading = "Networking")]
    pub service_cidr: IpNet,
    /// Address of the cluster DNS; the tenth service address where absent.
    #[arg(long, help_heading = "Networking")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local", help_heading = "Networking")]
    pub cluster_domain: String,
    /// Range of node ports.
    #[arg(long, default_value = "30000-32767", help_heading = "Networking")]
    pub service_node_port_range: String,
    /// UDP port of the overlay between nodes.
    #[arg(long, default_value_t = 8472, help_heading = "Networking")]
    pub overlay_port: u16,
    /// Where the kubeconfig of the administrator is written.
    #[arg(
        long,
        short = 'o',
        default_value = "/etc/knarr/knarr.yaml",
        env = "KNARR_KUBECONFIG_OUTPUT",
        value_name = "FILE",
        help_heading = "Client"
    )]
    pub write_kubeconfig: PathBuf,
    /// Mode of that file, in octal.
    #[arg(long, default_value = "600", env = "KNARR_KUBECONFIG_MODE", help_heading = "Client")]
    pub write_kubeconfig_mode: String,
    /// (db) Members of etcd (http:// or https://, with commas between them) in place of the store of this machine; several servers
    /// may share it.
    #[arg(
        long,
        value_delimiter = ',',
        env = "KNARR_DATASTORE_ENDPOINT",
        value_name = "URL",
        requires = "token",
        help_heading = "Database"
    )]
    pub datastore_endpoint: Vec<String>,
    /// Authority of etcd.
    #[arg(long, env = "KNARR_DATASTORE_CAFILE", value_name = "FILE", help_heading = "Database")]
    pub datastore_cafile: Option<PathBuf>,
    /// Certificate that etcd is shown.
    #[arg(long, env = "KNARR_DATASTORE_CERTFILE", value_name = "FILE", requires = "datastore_keyfile", help_heading = "Database")]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, env = "KNARR_DATASTORE_KEYFILE", value_name = "FILE", requires = "datastore_certfile", help_heading = "Database")]
    pub datastore_keyfile: Option<PathBuf>,
    /// Parts that shall not run: dns, proxy, scheduler, controllers, node.
    #[arg(long, value_delimiter = ',', value_name = "NAME", help_heading = "Components")]
    pub disable: Vec<String>,
    /// Token for joining nodes; one is made where absent.
    #[arg(long, env = "KNARR_TOKEN", hide_env_values = true, help_heading = "Cluster")]
    pub token: Option<String>,
    #[command(flatten)]
    pub security: SecurityFlags,
}

/// Flags of `knarr agent`.
#[derive(Args, Clone)]
pub struct AgentFlags {
    #[command(flatten)]
    pub node: NodeFlags,
    /// Address of a server, for example https://10.0.0.1:6443.
    #[arg(long, short = 's', env = "KNARR_URL", help_heading = "Cluster")]
    pub server: String,
    /// Token of the cluster, as `knarr token create` prints it.
    #[arg(long, short = 't', env = "KNARR_TOKEN", hide_env_values = true, help_heading = "Cluster")]
    pub token: Option<String>,
    /// File that holds the token.
    #[arg(long, env = "KNARR_TOKEN_FILE", value_name = "FILE", help_heading = "Cluster")]
    pub token_file: Option<PathBuf>,
}

impl Flags {
    /// Carries the command out.
    ///
    /// # Errors
    /// Whatever went wrong, told in one line.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Server(flags) => crate::server::run(*flags).map(|()| ExitCode::SUCCESS),
            Command::Agent(flags) => crate::node::agent::run(*flags).map(|()| ExitCode::SUCCESS),
            Command::Runtime(flags) => crate::node::cri::run(*flags).map(|()| ExitCode::SUCCESS),
            Command::KubeApiserver(flags) => Ok(twins::run(Twin::ApiServer, &flags.arguments)),
            Command::Kubelet(flags) => Ok(twins::run(Twin::Kubelet, &flags.arguments)),
            Command::KubeProxy(flags) => Ok(twins::run(Twin::Proxy, &flags.arguments)),
            Command::KubeScheduler(flags) => Ok(twins::run(Twin::Scheduler, &flags.arguments)),
            Command::CoreDns(flags) => Ok(twins::run(Twin::CoreDns, &flags.arguments)),
            Command::KubeControllerManager(flags) => Ok(twins::run(Twin::ControllerManager, &flags.arguments)),
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Flags::command(), "knarr", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
            Command::Client(command) => cli::run(command),
        }
    }
}

impl ServerFlags {
    /// Where the API server listens.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.https_listen_port)
    }

    /// Whether a part was switched off.
    pub fn disabled(&self, name: &str) -> bool {
        self.disable.iter().any(|disabled| disabled == name)
    }
}
