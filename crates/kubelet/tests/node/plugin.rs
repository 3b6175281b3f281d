//! A device plugin as vendors write them, small: two devices, of which each is a name for `/dev/zero`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use grpc::client::Channel;
use grpc::server::Reply;
use grpc::wire::Message;
use grpc::{Code, Failure};
use kubelet::devices::messages::*;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The resource that it serves.
pub const RESOURCE: &str = "example.com/device";

/// The plugin while it runs.
pub struct Plugin {
    /// Devices with their health.
    pub devices: watch::Sender<Vec<(&'static str, bool)>>,
    /// It says nothing when it is asked for devices.
    pub hangs: watch::Sender<bool>,
    /// Devices of which a start was announced.
    pub started: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
    socket: PathBuf,
}

impl Plugin {
    /// Serves and registers, in this kubelet's folder.
    pub async fn start(kubelet: &Path) -> Plugin {
        let folder = kubelet.join("device-plugins");
        let socket = folder.join("example.sock");
        let _none_is_fine = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let devices = watch::Sender::new(vec![("d0", true), ("d1", true)]);
        let (started, hangs) = (Arc::default(), watch::Sender::new(false));
        let (told, noted, stuck) = (devices.subscribe(), Arc::clone(&started), hangs.subscribe());
        let answered = move |path: String, message| {
            let (told, noted, mut stuck) = (told.clone(), Arc::clone(&noted), stuck.clone());
            async move {
                if path.ends_with("/Allocate") {
                    let _for_ever_where_it_is_dropped = stuck.wait_for(|stuck| !stuck).await;
                }
                answer(told, noted, path, message).await
            }
        };
        let serving = tokio::spawn(grpc::server::serve(listener, answered));
        let options = Some(options());
        let request = RegisterRequest { version: VERSION.into(), endpoint: "example.sock".into(), resource_name: RESOURCE.into(), options };
        let kubelet = Channel::new(folder.join("kubelet.sock"));
        kubelet.call::<Empty>("/v1beta1.Registration/Register", &request, None).await.expect("a registration");
        let wrong = RegisterRequest { version: "v1".into(), ..request };
        let refused = kubelet.call::<Empty>("/v1beta1.Registration/Register", &wrong, None).await.expect_err("no such version");
        assert!(refused.message.starts_with("requested API version \"v1\" is not supported by kubelet."), "{refused}");
        Plugin { devices, hangs, started, serving, socket }
    }

    /// Ends it; connections end with their lists.
    pub fn stop(self) {
        self.serving.abort();
        let _gone = std::fs::remove_file(&self.socket);
    }
}

fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true }
}

async fn answer(
    devices: watch::Receiver<Vec<(&'static str, bool)>>,
    started: Arc<Mutex<Vec<String>>>,
    path: String,
    message: Bytes,
) -> Result<Reply, Failure> {
    let malformed = |error| Failure::internal(&error);
    match path.trim_start_matches("/v1beta1.DevicePlugin/") {
        "GetDevicePluginOptions" => Ok(Reply::One(options().to_bytes())),
        "ListAndWatch" => Ok(Reply::Many(lists(devices).boxed())),
        "GetPreferredAllocation" => {
            let request = PreferredAllocationRequest::read(message).map_err(malformed)?;
            // The last ones, which nobody would choose by himself.
            let last = |wanted: ContainerPreferredAllocationRequest| {
                let mut ids = wanted.available;
                ids.sort();
                ContainerPreferredAllocationResponse { device_ids: ids.split_off(ids.len().saturating_sub(wanted.size as usize)) }
            };
            let container_responses = request.container_requests.into_iter().map(last).collect();
            Ok(Reply::One(PreferredAllocationResponse { container_responses }.to_bytes()))
        }
        "Allocate" => {
            let request = AllocateRequest::read(message).map_err(malformed)?;
            let container_responses = request.container_requests.into_iter().map(|wanted| allocated(&wanted.device_ids)).collect();
            Ok(Reply::One(AllocateResponse { container_responses }.to_bytes()))
        }
        "PreStartContainer" => {
            started.lock().extend(PreStartContainerRequest::read(message).map_err(malformed)?.device_ids);
            Ok(Reply::One(Empty {}.to_bytes()))
        }
        other => Err(Failure::new(Code::Unimplemented, other)),
    }
}

/// The devices now and whenever they change, until the plugin is dropped.
fn lists(devices: watch::Receiver<Vec<(&'static str, bool)>>) -> impl futures_util::Stream<Item = Vec<u8>> + Send {
    futures_util::stream::unfold((devices, true), |(mut devices, first)| async move {
        if !first {
            devices.changed().await.ok()?;
        }
        let device = |(id, healthy): &(&str, bool)| {
            let health = if *healthy { HEALTHY } else { "Unhealthy" };
            Device { id: (*id).to_owned(), health: health.to_owned(), topology: Some(TopologyInfo { nodes: vec![NumaNode { id: 0 }] }) }
        };
        let list = ListAndWatchResponse { devices: devices.borrow_and_update().iter().map(device).collect() };
        Some((list.to_bytes(), (devices, false)))
    })
}

fn allocated(ids: &[String]) -> ContainerAllocateResponse {
    let device = |id: &String| DeviceSpec { container_path: format!("/dev/{id}"), host_path: "/dev/zero".into(), permissions: "rw".into() };
    ContainerAllocateResponse {
        envs: BTreeMap::from([("DEVICES".into(), ids.join(",")), ("SHADOWED".into(), "by the plugin".into())]),
        mounts: vec![Mount { container_path: "/etc/machine-release".into(), host_path: "/etc/os-release".into(), read_only: true }],
        devices: ids.iter().map(device).collect(),
        annotations: BTreeMap::from([("example.com/devices".into(), ids.join(","))]),
        cdi_devices: ids.iter().map(|id| CdiDevice { name: format!("example.com/device={id}") }).collect(),
    }
}
