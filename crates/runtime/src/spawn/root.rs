//! The root of a container: made of layers, attached in its own mount name space only, and entered.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::users::Users;
use crate::spec::Rootfs;
use crate::sys::mount;

/// Longest text that one option of a file system may have.
const LONGEST_OPTION: usize = 255;

/// Attaches the root at `point` and opens it.
pub(super) fn attach(rootfs: &Rootfs, point: &Path) -> anyhow::Result<OwnedFd> {
    match rootfs {
        Rootfs::Overlay { layers, writable } => {
            let dirs = writable_dirs(writable)?;
            mount::attach(&overlay(layers, Some(&dirs), point)?, open_dir(point)?).context("attach overlay")?;
        }
        Rootfs::Directory(dir) => {
            let tree = mount::copy_path(dir, true).with_context(|| format!("open root directory {}", dir.display()))?;
            mount::set_propagation(&tree, mount::PRIVATE).context("make root private")?;
            mount::attach(&tree, open_dir(point)?).context("attach root directory")?;
        }
    }
    open_dir(point)
}

/// The root for a pod with users of its own, attached nowhere yet.
pub(super) fn shifted(rootfs: &Rootfs, users: &Users, point: &Path) -> anyhow::Result<OwnedFd> {
    match rootfs {
        Rootfs::Overlay { layers, writable } => {
            let dirs = writable_dirs(writable)?;
            // What the container writes belongs to its users on the node's disk, the root directory first of all.
            rustix::fs::chown(&dirs.upper, users.uid(0), users.gid(0)).context("give the writable layer to the pod's user 0")?;
            let shifted = users.shifted_layers(layers, point)?;
            overlay(&shifted.layers, Some(&dirs), &shifted.place).context("layers with shifted owners")
        }
        Rootfs::Directory(dir) => {
            let tree = mount::copy_path(dir, true).with_context(|| format!("open root directory {}", dir.display()))?;
            mount::set_propagation(&tree, mount::PRIVATE).context("make root private")?;
            users.shift(&tree, dir)?;
            Ok(tree)
        }
    }
}

/// Attaches a tree over the top of this mount name space, the only place that a process which is a stranger to the node
/// may surely name.
pub(super) fn attach_over_top(root: &OwnedFd) -> anyhow::Result<()> {
    mount::attach(root, open_dir(Path::new("/"))?).context("attach root")
}

/// A read-only stack of layers that is attached nowhere, with shifted owners where the pod has users of its own.
pub(super) fn image(layers: &[PathBuf], users: Option<&Users>, point: &Path) -> anyhow::Result<OwnedFd> {
    match (users, layers) {
        (None, _) | (_, []) => layers_only(layers, point),
        (Some(users), [one]) => {
            let layer = layers_only(layers, point)?;
            users.shift(&layer, one)?;
            Ok(layer)
        }
        (Some(users), _) => {
            let shifted = users.shifted_layers(layers, point)?;
            layers_only(&shifted.layers, &shifted.place)
        }
    }
}

fn layers_only(layers: &[PathBuf], place: &Path) -> anyhow::Result<OwnedFd> {
    let stack = match layers {
        [] => return Err(anyhow!("image without layers")),
        // An overlay needs two; a single layer is shown as it is.
        [one] => mount::copy_path(one, false).with_context(|| format!("open layer {}", one.display()))?,
        _ => overlay(layers, None, place).context("stack layers")?,
    };
    mount::set_attributes(&stack, mount::RDONLY | mount::NODEV | mount::NOSUID, false).context("make image read-only")?;
    Ok(stack)
}

struct Writable {
    upper: PathBuf,
    work: PathBuf,
}

/// The two directories of the writable layer. An interrupted earlier use leaves marks in `work` that the kernel would
/// refuse, so it is made anew.
fn writable_dirs(writable: &Path) -> anyhow::Result<Writable> {
    let dirs = Writable { upper: writable.join("upper"), work: writable.join("work") };
    let failed = || format!("prepare writable layer {}", writable.display());
    match fs::remove_dir_all(&dirs.work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    fs::create_dir_all(&dirs.upper).with_context(failed)?;
    fs::create_dir(&dirs.work).with_context(failed)?;
    Ok(dirs)
}

/// Layers from the top down, each once: the kernel refuses the same directory twice.
fn from_the_top(layers: &[PathBuf]) -> Vec<&PathBuf> {
    let mut ordered: Vec<&PathBuf> = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        if !ordered.contains(&layer) {
            ordered.push(layer);
        }
    }
    ordered
}

fn overlay_options(layers: &[PathBuf], writable: Option<&Writable>) -> anyhow::Result<Vec<(&'static str, Option<String>)>> {
    let text = |path: &Path| -> anyhow::Result<Option<String>> {
        let text = path.to_str().filter(|text| text.len() <= LONGEST_OPTION);
        Ok(Some(text.ok_or_else(|| anyhow!("layer path {} is too long or not text", path.display()))?.to_owned()))
    };
    let mut options = vec![("source", Some("overlay".to_owned()))];
    for layer in from_the_top(layers) {
        options.push(("lowerdir+", text(layer)?));
    }
    if let Some(writable) = writable {
        options.push(("upperdir", text(&writable.upper)?));
        options.push(("workdir", text(&writable.work)?));
        // The writable layer does not outlive its container, so nothing is gained by syncing it, and unmounting an
        // overlay that is not volatile syncs the whole disk below it.
        options.push(("volatile", None));
    }
    Ok(options)
}

/// A stack of layers that is attached nowhere; `place` is a directory that may be mounted on for a moment.
fn overlay(layers: &[PathBuf], writable: Option<&Writable>, place: &Path) -> anyhow::Result<OwnedFd> {
    // Older kernels write a line to their log for each try.
    if crate::kernel::is_at_least((6, 5)) {
        let options = overlay_options(layers, writable)?;
        let options: Vec<(&str, Option<&str>)> = options.iter().map(|(n, v)| (*n, v.as_deref())).collect();
        match mount::new("overlay", &options, 0) {
            // The first kernels that can make it so do not know "lowerdir+" yet.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            made => return made.context("mount overlay"),
        }
    }
    attach_overlay_of_one_text(layers, writable, place)?;
    let tree = mount::copy_path(place, false).context("take the overlay");
    rustix::mount::unmount(place, UnmountFlags::DETACH).context("let go of the overlay's place")?;
    Ok(tree?)
}

fn attach_overlay_of_one_text(layers: &[PathBuf], writable: Option<&Writable>, place: &Path) -> anyhow::Result<()> {
    let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lower: Vec<String> = from_the_top(layers).into_iter().map(|layer| escape(layer)).collect();
    let mut data = format!("lowerdir={}", lower.join(":"));
    if let Some(writable) = writable {
        data += &format!(",upperdir={},workdir={},volatile", escape(&writable.upper), escape(&writable.work));
    }
    let data = std::ffi::CString::new(data).context("layer path with a zero byte")?;
    rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), Some(data.as_c_str())).context("mount overlay")
}

pub(super) fn open_dir(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))
}

/// Makes `root` the root of this mount name space and lets go of the old one. Afterwards no path of the node exists here.
pub(super) fn enter(root: &OwnedFd) -> anyhow::Result<()> {
    rustix::process::fchdir(root).context("enter root")?;
    rustix::process::pivot_root(".", ".").context("pivot_root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("let go of the old root")?;
    rustix::process::chdir("/").context("enter new root")
}
