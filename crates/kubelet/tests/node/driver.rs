//! A volume driver of the shape of the official hostpath driver: folders and loop devices, staged, published, grown and
//! measured, behind a real socket that registers as any driver's does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grpc::server::Reply;
use grpc::wire::Message;
use grpc::{Code, Failure};
use kubelet::csi::messages as csi;
use parking_lot::Mutex;
use tokio::net::UnixListener;

use crate::world::run;

/// Name of the driver.
pub const DRIVER: &str = "folders.example.com";

/// The driver; dropping it does not end it, [`Driver::stop`] does.
pub struct Driver {
    /// Where its volumes lie.
    pub state: PathBuf,
    /// Calls in the order in which they came, as `method volume`.
    pub calls: Arc<Mutex<Vec<String>>>,
    /// What the last publication was told.
    pub context: Arc<Mutex<csi::NodePublishVolumeRequest>>,
    registration: PathBuf,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Clone)]
struct Service {
    state: PathBuf,
    endpoint: PathBuf,
    calls: Arc<Mutex<Vec<String>>>,
    context: Arc<Mutex<csi::NodePublishVolumeRequest>>,
}

impl Driver {
    /// Starts the driver for a node whose folder this is.
    pub fn start(kubelet: &Path, state: &Path) -> Driver {
        let (registry, own) = (kubelet.join("plugins_registry"), kubelet.join("plugins").join(DRIVER));
        for folder in [&registry, &own, state] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let (registration, endpoint) = (registry.join(format!("{DRIVER}-reg.sock")), own.join("csi.sock"));
        let (calls, context) = (Arc::default(), Arc::default());
        let service =
            Service { state: state.to_owned(), endpoint: endpoint.clone(), calls: Arc::clone(&calls), context: Arc::clone(&context) };
        let tasks = [&endpoint, &registration].map(|socket| {
            let _none_is_fine = std::fs::remove_file(socket);
            let (listener, service) = (UnixListener::bind(socket).expect("a socket"), service.clone());
            let answer = move |path: String, message: bytes::Bytes| {
                let service = service.clone();
                async move { tokio::task::spawn_blocking(move || service.answer(&path, message)).await.expect("an answer") }
            };
            tokio::spawn(grpc::server::serve(listener, answer))
        });
        Driver { state: state.to_owned(), calls, context, registration, tasks: tasks.into() }
    }

    /// Ends the driver, its sockets too.
    pub fn stop(self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        std::fs::remove_file(self.registration).expect("its socket");
    }

    /// How often a call was made.
    pub fn count(&self, call: &str) -> usize {
        self.calls.lock().iter().filter(|one| *one == call).count()
    }
}

fn parse<M: Message>(message: bytes::Bytes) -> Result<M, Failure> {
    M::read(message).map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))
}

fn one(message: &impl Message) -> Result<Reply, Failure> {
    Ok(Reply::One(message.to_bytes()))
}

fn is_mounted(path: &Path) -> bool {
    kubelet::volumes::mount::is_mounted(path)
}

impl Service {
    fn answer(&self, path: &str, message: bytes::Bytes) -> Result<Reply, Failure> {
        let method = path.rsplit('/').next().unwrap_or("");
        let note = |volume: &str| self.calls.lock().push(format!("{method} {volume}"));
        match method {
            "GetInfo" => one(&csi::PluginInfo {
                kind: "CSIPlugin".into(),
                name: DRIVER.into(),
                endpoint: self.endpoint.display().to_string(),
                versions: vec!["1.0.0".into()],
            }),
            "NodeGetInfo" => one(&csi::NodeGetInfoResponse {
                node_id: "node-of-the-driver".into(),
                max_volumes: 7,
                topology: Some(csi::Topology { segments: [("topology.example.com/rack".to_owned(), "r1".to_owned())].into() }),
            }),
            "NodeGetCapabilities" => one(&csi::NodeGetCapabilitiesResponse {
                capabilities: [1, 2, 3].map(|kind| csi::NodeCapability { rpc: Some(csi::NodeRpc { kind }) }).into(),
            }),
            "NotifyRegistrationStatus" => {
                let status: csi::RegistrationStatus = parse(message)?;
                note(&format!("{} {}", status.registered, status.error));
                one(&csi::Empty {})
            }
            "NodeStageVolume" => {
                let request: csi::NodeStageVolumeRequest = parse(message)?;
                note(&request.volume_id);
                if request.volume_id.starts_with("refused") {
                    return Err(Failure::new(Code::InvalidArgument, "no such volume is made here"));
                }
                self.stage(&request);
                one(&csi::Empty {})
            }
            "NodePublishVolume" => {
                let request: csi::NodePublishVolumeRequest = parse(message)?;
                note(&request.volume_id);
                self.publish(&request);
                *self.context.lock() = request;
                one(&csi::Empty {})
            }
            "NodeUnpublishVolume" => {
                let request: csi::NodeUnpublishVolumeRequest = parse(message)?;
                note(&request.volume_id);
                release(Path::new(&request.target_path));
                one(&csi::Empty {})
            }
            "NodeUnstageVolume" => {
                let request: csi::NodeUnstageVolumeRequest = parse(message)?;
                note(&request.volume_id);
                if is_mounted(Path::new(&request.staging_path)) {
                    run(&format!("umount {}", request.staging_path));
                }
                let loops = run(&format!("losetup -j {} -O NAME -n", self.state.join(&request.volume_id).join("disk").display()));
                loops.lines().for_each(|device| drop(run(&format!("losetup -d {device}"))));
                one(&csi::Empty {})
            }
            "NodeExpandVolume" => {
                let request: csi::NodeExpandVolumeRequest = parse(message)?;
                note(&request.volume_id);
                one(&csi::NodeExpandVolumeResponse { capacity: request.range.unwrap_or_default().required })
            }
            "NodeGetVolumeStats" => one(&csi::NodeGetVolumeStatsResponse {
                usage: vec![
                    csi::VolumeUsage { available: 60, total: 100, used: 40, unit: 1 },
                    csi::VolumeUsage { available: 6, total: 10, used: 4, unit: 2 },
                ],
                condition: Some(csi::VolumeCondition { abnormal: true, message: "worn".into() }),
            }),
            _ => Err(Failure::new(Code::Unimplemented, format!("no method {path}"))),
        }
    }

    fn folder(&self, volume: &str) -> PathBuf {
        let folder = self.state.join(volume);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn stage(&self, request: &csi::NodeStageVolumeRequest) {
        let (folder, staging) = (self.folder(&request.volume_id), &request.staging_path);
        let block = request.capability.as_ref().is_some_and(|capability| capability.block.is_some());
        if block {
            let disk = folder.join("disk");
            std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
            run(&format!("losetup -f {}", disk.display()));
        } else if !is_mounted(Path::new(staging)) {
            run(&format!("mount --bind {} {staging}", folder.display()));
        }
    }

    fn publish(&self, request: &csi::NodePublishVolumeRequest) {
        let (folder, target) = (self.folder(&request.volume_id), &request.target_path);
        if is_mounted(Path::new(target)) {
            return;
        }
        if request.capability.as_ref().is_some_and(|capability| capability.block.is_some()) {
            let device = run(&format!("losetup -j {} -O NAME -n", folder.join("disk").display()));
            run(&format!("touch {target} && mount --bind {} {target}", device.trim()));
            return;
        }
        let source = if request.staging_path.is_empty() { folder.display().to_string() } else { request.staging_path.clone() };
        run(&format!("mkdir {target} && mount --bind {source} {target}"));
        if request.read_only {
            run(&format!("mount -o remount,bind,ro {target}"));
        }
    }
}

fn release(target: &Path) {
    if is_mounted(target) {
        run(&format!("umount {}", target.display()));
    }
    if target.is_dir() {
        std::fs::remove_dir(target).expect("an empty folder");
    } else if target.exists() {
        std::fs::remove_file(target).expect("an empty file");
    }
}
