//! The socket at which device plugins register. Plugins watch it: a new one means that they have to register again.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use grpc::server::Reply;
use grpc::wire::Message;
use grpc::{Code, Failure};
use tokio::net::UnixListener;

use super::messages::{DevicePluginOptions, Empty, RegisterRequest, VERSION};
use super::{Devices, checkpoint};
use crate::Kubelet;
use crate::plugins::{Plugin, PluginKind};

/// Name of the socket in the plugins' folder.
const SOCKET: &str = "kubelet.sock";

/// Serves registrations, and has the node's status follow the devices, until the future is dropped.
///
/// # Errors
/// The socket cannot be made.
pub async fn run(kubelet: &Arc<Kubelet>) -> Result<()> {
    let devices = kubelet.placement.devices.clone();
    let listener = listen(&devices.folder)?;
    let told = async {
        loop {
            devices.changed.notified().await;
            kubelet.status_changed.notify_one();
            devices.owners().iter().for_each(|uid| kubelet.pods.poke(uid));
        }
    };
    let serving = devices.clone();
    let served = grpc::server::serve(listener, move |path, message| answer(serving.clone(), path, message));
    tokio::select! {
        () = served => Ok(()),
        () = told => Ok(()),
    }
}

/// Sockets of plugins are removed, since their plugins have to come again.
fn listen(folder: &Path) -> Result<UnixListener> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder && entry.file_name() != checkpoint::FILE {
            std::fs::remove_file(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    let socket = folder.join(SOCKET);
    UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))
}

async fn answer(devices: Arc<Devices>, path: String, message: Bytes) -> Result<Reply, Failure> {
    if path != "/v1beta1.Registration/Register" {
        return Err(Failure::new(Code::Unimplemented, format!("unknown method {path}")));
    }
    let request = RegisterRequest::read(message).map_err(|error| Failure::internal(&error))?;
    register(&devices, request)?;
    Ok(Reply::One(Empty {}.to_bytes()))
}

fn register(devices: &Arc<Devices>, request: RegisterRequest) -> Result<(), Failure> {
    let RegisterRequest { version, endpoint, resource_name, options } = request;
    if version != VERSION {
        let text = format!("requested API version {version:?} is not supported by kubelet. Supported version is [{VERSION:?}]");
        return Err(Failure::new(Code::Unknown, text));
    }
    if !is_extended(&resource_name) {
        return Err(Failure::new(Code::Unknown, format!("the ResourceName {resource_name:?} is invalid")));
    }
    // A name within the folder, as the interface has it: a plugin may not point us to sockets of others.
    let plain = Path::new(&endpoint).file_name().is_some_and(|name| name == endpoint.as_str());
    if !plain {
        return Err(Failure::new(
            Code::InvalidArgument,
            format!("the endpoint {endpoint:?} is no name of a socket in the plugins' folder"),
        ));
    }
    devices.add(&resource_name, &devices.folder.join(&endpoint), options.unwrap_or_default());
    Ok(())
}

/// Plugins that are found by their socket in `plugins_registry`.
pub const fn kind() -> PluginKind {
    PluginKind { name: "DevicePlugin", register: |kubelet, plugin| Box::pin(found(kubelet, plugin)), gone: |_, _| Box::pin(async {}) }
}

/// One that goes is noticed by the end of its list of devices.
async fn found(kubelet: &Arc<Kubelet>, plugin: &Plugin) -> Result<(), String> {
    if !plugin.versions.iter().any(|version| version == VERSION) {
        return Err(format!("device plugin version(s) {:?} not supported", plugin.versions));
    }
    kubelet.placement.devices.add_found(&plugin.name, &plugin.endpoint).await
}

impl Devices {
    /// As `add`, for a plugin that was found by its socket and has not said what it can do.
    ///
    /// # Errors
    /// What the plugin says, or that the name is none of an extended resource.
    pub async fn add_found(self: &Arc<Devices>, resource: &str, socket: &Path) -> Result<(), String> {
        if !is_extended(resource) {
            return Err(format!("invalid name of device plugin socket: the ResourceName {resource:?} is invalid"));
        }
        let channel = grpc::client::Channel::new(socket);
        let within = Some(std::time::Duration::from_secs(10));
        let options: Result<DevicePluginOptions, Failure> =
            channel.call("/v1beta1.DevicePlugin/GetDevicePluginOptions", &Empty {}, within).await;
        self.add(resource, socket, options.map_err(|failure| failure.message)?);
        Ok(())
    }
}

/// `domain/name` of a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.split_once('/').is_some_and(|(domain, rest)| {
        let foreign = domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && !domain.starts_with("requests.");
        foreign && !domain.is_empty() && domain.bytes().all(plain) && !rest.is_empty() && rest.len() <= 63 && rest.bytes().all(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_resources() {
        for name in ["example.com/device", "nvidia.com/gpu", "a/b"] {
            assert!(is_extended(name), "{name}");
        }
        for name in ["cpu", "kubernetes.io/x", "node.kubernetes.io/x", "requests.a.com/x", "/x", "a.com/", "a.com/x/y", "a.com/x y"] {
            assert!(!is_extended(name), "{name}");
        }
    }
}
