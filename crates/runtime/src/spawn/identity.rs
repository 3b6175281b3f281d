//! Turns the process, still all-powerful, into who it shall be. The order is the point of this file.

use std::os::fd::AsFd;

use anyhow::{Context, anyhow};
use rustix::fs::Mode;
use rustix::process::{Gid, Resource, Rlimit as KernelLimit, Uid};
use rustix::thread::{set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::capabilities::{self, Prepared};
use super::resolve;
use crate::spec::Rlimit;
use crate::status::ResolvedUser;

/// Everything that makes an identity.
pub(super) struct Identity<'a> {
    pub user: &'a ResolvedUser,
    pub capabilities: &'a Prepared,
    pub no_new_privs: bool,
    pub filter: Option<&'a [u8]>,
    pub cwd: &'a str,
}

/// Assumes the identity.
///
/// 1. Without `no_new_privs` a filter needs a power that is given up below, so it comes first; with it, last.
/// 2. The bounding set is cut while we may.
/// 3. Groups before user, because afterwards groups cannot be changed.
/// 4. The working directory is entered as the user, because a network file system may know only that one; as root
///    before, because a directory may be closed to the user and yet be the place that was asked for.
/// 5. Capabilities, kept over the change of user, are cut to what was asked for.
pub(super) fn assume(identity: &Identity<'_>) -> anyhow::Result<()> {
    crate::sys::process::new_session_keyring();
    if identity.no_new_privs {
        set_no_new_privs(true).context("set no_new_privs")?;
    }
    if let Some(filter) = identity.filter.filter(|_| !identity.no_new_privs) {
        crate::sys::process::install_filter(filter).context("install system-call filter")?;
    }
    capabilities::drop_bounding(identity.capabilities).context("cut bounding capabilities")?;
    let entered = enter(identity.cwd);
    set_keep_capabilities(true).context("keep capabilities over the change of user")?;
    let groups: Vec<Gid> = identity.user.supplemental.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).context("set groups")?;
    let gid = Gid::from_raw(identity.user.gid);
    set_thread_res_gid(gid, gid, gid).context("set group")?;
    let uid = Uid::from_raw(identity.user.uid);
    set_thread_res_uid(uid, uid, uid).context("set user")?;
    set_keep_capabilities(false).context("stop keeping capabilities")?;
    if entered.is_err() {
        enter(identity.cwd)?;
    }
    capabilities::apply(identity.capabilities).context("set capabilities")?;
    if let Some(filter) = identity.filter.filter(|_| identity.no_new_privs) {
        crate::sys::process::install_filter(filter).context("install system-call filter")?;
    }
    Ok(())
}

/// Enters the working directory and makes sure that it lies in our root, not in one that a leaked descriptor keeps.
fn enter(cwd: &str) -> anyhow::Result<()> {
    let dir = if cwd.is_empty() { "/" } else { cwd };
    rustix::process::chdir(dir).with_context(|| format!("chdir to cwd ({dir:?}) set in config.json failed"))?;
    let now = rustix::process::getcwd(Vec::new()).context("current working directory is outside of container mount namespace root")?;
    if !now.as_bytes().starts_with(b"/") {
        return Err(anyhow!("current working directory is outside of container mount namespace root"));
    }
    Ok(())
}

/// Makes the working directory where the image has none. Why it cannot be made is a text: such a container is made, and ends
/// when it starts.
pub(super) fn ensure_cwd(root: impl AsFd, cwd: &str) -> anyhow::Result<Option<String>> {
    if cwd.is_empty() || cwd == "/" {
        return Ok(None);
    }
    if !cwd.starts_with('/') {
        return Err(super::BadDescription(format!("cwd {cwd:?} is not an absolute path")).into());
    }
    match resolve::ensure_dir(root, std::path::Path::new(cwd), 0o755) {
        Ok(_) => Ok(None),
        // A read-only volume may cover it; entering it tells.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        // Users look for the words of other runtimes.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(Some(format!("mkdir {cwd}: not a directory"))),
        Err(error) => Ok(Some(format!("mkdir {cwd}: {error}"))),
    }
}

/// New files of the container are as other runtimes make them.
pub(super) fn set_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o022));
}

/// Sets the limits of `setrlimit`. What we may not raise stays at our own ceiling.
pub(super) fn set_rlimits(limits: &[Rlimit]) -> anyhow::Result<()> {
    for limit in limits {
        let kind = resource(&limit.kind).ok_or_else(|| super::BadDescription(format!("unknown resource limit {}", limit.kind)))?;
        let value = |n: u64| if n == u64::MAX { None } else { Some(n) };
        let wanted = KernelLimit { current: value(limit.soft), maximum: value(limit.hard) };
        match rustix::process::setrlimit(kind, wanted) {
            Err(rustix::io::Errno::PERM) => {
                let ceiling = rustix::process::getrlimit(kind).maximum;
                let cut = |n: Option<u64>| match (n, ceiling) {
                    (Some(n), Some(most)) => Some(n.min(most)),
                    (None, most) => most,
                    (n, None) => n,
                };
                let possible = KernelLimit { current: cut(wanted.current), maximum: cut(wanted.maximum) };
                rustix::process::setrlimit(kind, possible).with_context(|| format!("set {}", limit.kind))?;
            }
            done => done.with_context(|| format!("set {}", limit.kind))?,
        }
    }
    Ok(())
}

fn resource(kind: &str) -> Option<Resource> {
    Some(match kind {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return None,
    })
}

/// Sets how readily the kernel kills this process for memory. Where it may not be lowered it stays.
pub(super) fn set_oom_score(score: i32) -> anyhow::Result<()> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        done => done.context("set oom_score_adj"),
    }
}
