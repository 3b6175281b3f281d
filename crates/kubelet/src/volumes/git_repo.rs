//! `gitRepo`: a kind of volume that the API still has and that no kubelet sets up any more. Pods with one wait, and are told why.

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, VolumeError, VolumeType, nothing};

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "gitRepo",
        directory: "kubernetes.io~git-repo",
        is: |volume| volume.git_repo.is_some(),
        set_up,
        tear_down: nothing,
        live: false,
    }
}

fn set_up<'a>(_: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    let text =
        "git-repo volume plugin has been disabled; if necessary, it may be re-enabled by enabling the feature-gate `GitRepoVolumeDriver`";
    Box::pin(async move { Err(VolumeError::Refused(text.into())) })
}
