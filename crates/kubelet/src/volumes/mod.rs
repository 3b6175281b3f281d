//! Volume types, one file each: how a volume of a pod becomes a directory (or an image) to be mounted.
//!
//! A type says whether a volume is its own, sets it up (again on every change: set-up is idempotent and updates
//! content in place) and tears it down. The list is generated.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::Kubelet;

pub mod atomic;
mod config_map;
pub mod content;
mod csi;
mod downward_api;
mod empty_dir;
mod git_repo;
mod host_path;
pub mod image;
mod list;
pub mod mount;
pub mod ownership;
mod persistent_volume_claim;
mod projected;
mod secret;
pub mod sub_path;

pub use content::data_of;

/// A volume type.
#[derive(Clone, Copy)]
pub struct VolumeType {
    /// Name as in the volume source, for example `emptyDir`.
    pub name: &'static str,
    /// Directory below `volumes/` of the pod as upstream names it, for example `kubernetes.io~empty-dir`.
    pub directory: &'static str,
    /// Whether the volume is of this type.
    pub is: fn(&Volume) -> bool,
    /// Makes the volume ready, or brings its content up to date.
    pub set_up: for<'a> fn(&'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>>,
    /// Releases what set-up made. The directory of the volume is removed afterwards.
    pub tear_down: for<'a> fn(&'a TearDown<'a>) -> BoxFuture<'a, Result<(), VolumeError>>,
    /// Whether content follows objects that change while the pod runs.
    pub live: bool,
}

/// What set-up needs.
pub struct SetUp<'a> {
    /// The node.
    pub kubelet: &'a Arc<Kubelet>,
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses of the pod, for the downward API.
    pub pod_ips: &'a [String],
    /// The volume.
    pub volume: &'a Volume,
    /// Directory of this volume, which set-up creates.
    pub directory: &'a Path,
}

/// What tear-down needs.
pub struct TearDown<'a> {
    /// The node.
    pub kubelet: &'a Arc<Kubelet>,
    /// UID of the pod.
    pub pod_uid: &'a str,
    /// Name of the volume.
    pub volume: &'a str,
    /// Directory of this volume.
    pub directory: &'a Path,
}

/// A volume that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// A directory (or file, for hostPath) of the node.
    Path {
        /// Where.
        path: PathBuf,
        /// May only be read.
        read_only: bool,
    },
    /// The layers of an image, lowest first; none before a container that uses it starts.
    Image(Vec<PathBuf>),
    /// A block device.
    Device(PathBuf),
}

/// Why a volume is not ready; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Something it refers to is not there or not as it must be.
    #[error("{0}")]
    Refused(String),
    /// A driver failed.
    #[error("rpc error: code = {:?} desc = {}", .0.code, .0.message)]
    Driver(grpc::Failure),
    /// The claim behind it cannot be read.
    #[error("error processing PVC {0}")]
    Claim(String),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] api::Status),
    /// The node's files refused.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl VolumeError {
    /// Wraps an IO failure.
    pub fn io(what: &'static str, path: &Path, source: std::io::Error) -> VolumeError {
        VolumeError::Io { what, path: path.to_owned(), source }
    }

    /// Whether a driver has said no for good: nothing of the call goes on there.
    pub fn is_final(&self) -> bool {
        use grpc::Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
        let unknown = |code| matches!(code, Aborted | Cancelled | DeadlineExceeded | ResourceExhausted | Unavailable);
        matches!(self, VolumeError::Driver(failure) if failure.sent && !unknown(failure.code))
    }

    /// Whether a driver has said that what was asked can never be done.
    pub fn is_infeasible(&self) -> bool {
        use grpc::Code::{InvalidArgument, NotFound, OutOfRange};
        matches!(self, VolumeError::Driver(failure) if matches!(failure.code, InvalidArgument | NotFound | OutOfRange))
    }

    /// Whether a driver has said that something else has to happen first.
    pub fn is_failed_precondition(&self) -> bool {
        matches!(self, VolumeError::Driver(failure) if failure.code == grpc::Code::FailedPrecondition)
    }
}

/// The type of a volume.
pub fn find(volume: &Volume) -> Option<&'static VolumeType> {
    list::ALL.iter().find(|one| (one.is)(volume))
}

/// The type that a directory below `volumes/` belongs to.
pub fn find_directory(directory: &str) -> Option<&'static VolumeType> {
    list::ALL.iter().find(|one| one.directory == directory)
}

/// For types that have nothing to release but files, which go with the pod's directories.
pub fn nothing<'a>(_: &'a TearDown<'a>) -> BoxFuture<'a, Result<(), VolumeError>> {
    Box::pin(async { Ok(()) })
}
