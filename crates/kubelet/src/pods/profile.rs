//! Seccomp profiles that lie on the node, for containers that ask for one by its name.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, Pod};

/// Largest seccomp profile that is read.
const LARGEST: u64 = 1 << 20;

/// The text of the profile of the node that a container asks for, from `seccomp` of the kubelet's folder.
///
/// # Errors
/// A text for `CreateContainerError`: a container never runs without what it asks for.
pub fn wanted(pod: &Pod, container: &Container, root_dir: &Path) -> Result<Option<String>, String> {
    let security = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|security| security.seccomp_profile.as_ref());
    let wanted = security.seccomp_profile.as_ref().or(of_pod).filter(|profile| profile.type_ == "Localhost");
    let Some(wanted) = wanted.filter(|_| security.privileged != Some(true)) else { return Ok(None) };
    let name = wanted.localhost_profile.as_deref().unwrap_or("");
    let folder = root_dir.join("seccomp");
    let path = folder.join(name).display().to_string();
    let failed = |error: std::io::Error| match error.raw_os_error() {
        Some(_) => format!("cannot load seccomp profile {path:?}: open {path}: {}", crate::probes::go_error(&error)),
        None => format!("cannot load seccomp profile {path:?}: {error}"),
    };
    read_profile(&folder, Path::new(name)).map(Some).map_err(failed)
}

/// The text of a profile below the folder. No name leads out of it; links may, for whoever keeps profiles elsewhere: the folder is
/// the node's own.
fn read_profile(folder: &Path, name: &Path) -> std::io::Result<String> {
    let refused = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
    if name.as_os_str().is_empty() || !name.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refused("the name must be a relative path without .."));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(folder.join(name))?;
    if !file.metadata()?.is_file() {
        return Err(refused("it is no file"));
    }
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text)?;
    if read as u64 > LARGEST { Err(std::io::Error::other("it is too large")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_inside_of_their_folder_only() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("seccomp");
        std::fs::create_dir_all(folder.join("profiles")).unwrap();
        std::fs::write(folder.join("profiles/one.json"), "one").unwrap();
        std::fs::write(top.path().join("secret"), "secret").unwrap();
        std::fs::create_dir(top.path().join("elsewhere")).unwrap();
        std::fs::write(top.path().join("elsewhere/two.json"), "one").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        link("profiles/one.json", "near");
        link("../elsewhere", "operator");
        let pipe = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), pipe.0, pipe.1, 0).unwrap();
        std::fs::write(folder.join("large"), vec![b' '; LARGEST as usize + 1]).unwrap();
        for name in ["profiles/one.json", "near", "operator/two.json"] {
            assert_eq!(read_profile(&folder, Path::new(name)).unwrap(), "one", "{name}");
        }
        for name in
            ["../secret", "profiles/../../secret", "profiles/../near", "/etc/hostname", "", ".", "profiles", "none", "pipe", "large"]
        {
            assert!(read_profile(&folder, Path::new(name)).is_err(), "{name}");
        }
    }
}
