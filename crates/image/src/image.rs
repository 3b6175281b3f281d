//! What an image is to its users: identity, names, and the part of its config that a container needs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// An image that is completely present on this node. A snapshot: names may change afterwards, the content may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:<hex>` of the config, the identity of the image.
    pub id: String,
    /// Names with tag, normalised: `docker.io/library/nginx:1.27`.
    pub names: Vec<String>,
    /// Names with digest: `docker.io/library/nginx@sha256:<manifest digest>`. Empty after an import without digests.
    pub digests: Vec<String>,
    /// Bytes of all layers on disk, shared ones included.
    pub size: u64,
    /// What a container needs of the image's config.
    pub config: ImageConfigView,
    /// Garbage collection leaves the image alone. True for imported images.
    pub pinned: bool,
    /// The image came from an archive and perhaps cannot be pulled again.
    pub imported: bool,
    /// Last pull, import or [`crate::ImageStore::mark_used`].
    pub last_used: SystemTime,
}

impl Image {
    /// The `imageID` of a container status for a pod that asked for `reference`: the digest name of that repository, else
    /// the first digest name, else the config digest.
    pub fn image_id_for(&self, reference: &str) -> String {
        let repository = crate::Reference::parse(reference).map(|reference| reference.repository()).ok();
        let same = |digest: &&String| digest.split('@').next() == repository.as_deref();
        self.digests.iter().find(same).or(self.digests.first()).unwrap_or(&self.id).clone()
    }
}

/// The part of an image config that a container is made of. Missing parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfigView {
    /// The program with its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`, in the order of the image.
    pub env: Vec<String>,
    /// Empty means `/`.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// `SIGTERM`, `15` or empty.
    pub stop_signal: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// `80/tcp` and so on.
    pub exposed_ports: Vec<String>,
    /// Labels of the image. Never to be interpreted by the node.
    pub labels: BTreeMap<String, String>,
    /// `amd64`, `arm64` and so on.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// RFC 3339, as written in the image; may be empty.
    pub created: String,
}

/// Which member of a multi-platform index this node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// In OCI words: `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// `v7`, `v8` or empty.
    pub variant: String,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Platform::host()
    }
}
