//! Mount points that almost every container has and almost no image brings.
//!
//! Where a layer has no `/proc` or `/etc/hosts` to attach something at, one has to be made in the container's writable
//! layer: a dozen directories and files on the node's disk for each container, which cost more than all its name spaces.
//! They are the same every time, so they are made once, as a layer that lies below those of the image. What the image
//! brings itself hides them; what it forbids by a link of the same name is made as before.
//!
//! Guarantees: a container finds no file or directory that it would not have found without. For each set of points that
//! a container mounts there is a layer with exactly these, made in one step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spec::Mount;

/// What every container has.
const ALWAYS: [&str; 3] = ["dev", "proc", "sys"];
/// Files that many have.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// Directories that many have.
const DIRECTORIES: [&str; 1] = ["/var/run/secrets/kubernetes.io/serviceaccount"];

/// Folder of the layers beside those of the sandboxes, whose names never begin so.
const FOLDER: &str = ".points";

/// The layer with the mount points of a container; made if it is the first with this set. `run_dir` is that of all
/// sandboxes.
///
/// # Errors
/// It could not be made; a container does well without.
pub(crate) fn layer(run_dir: &Path, mounts: &[Mount]) -> io::Result<PathBuf> {
    let wanted = |point: &&str| mounts.iter().any(|mount| mount.target() == Path::new(point));
    let files: Vec<&str> = FILES.into_iter().filter(wanted).collect();
    let directories: Vec<&str> = DIRECTORIES.into_iter().filter(wanted).collect();
    let bits = FILES.iter().chain(&DIRECTORIES).map(|point| if wanted(&point) { '1' } else { '0' });
    let folder = run_dir.join(FOLDER);
    let layer = folder.join(bits.collect::<String>());
    if layer.is_dir() {
        return Ok(layer);
    }
    // Nobody meets one that is half made.
    let made = folder.join(format!("new-{}-{:?}", std::process::id(), std::thread::current().id()));
    let outcome = make(&made, &files, &directories).and_then(|()| fs::rename(&made, &layer));
    match outcome {
        Ok(()) => Ok(layer),
        Err(error) => {
            let _never_made = fs::remove_dir_all(&made);
            // Another was faster.
            if layer.is_dir() { Ok(layer) } else { Err(error) }
        }
    }
}

fn make(layer: &Path, files: &[&str], directories: &[&str]) -> io::Result<()> {
    let inside = |point: &str| layer.join(point.trim_start_matches('/'));
    for directory in ALWAYS.iter().chain(directories) {
        fs::create_dir_all(inside(directory))?;
    }
    for file in files {
        let path = inside(file);
        fs::create_dir_all(path.parent().unwrap_or(layer))?;
        fs::write(path, "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Bind;

    #[test]
    fn a_layer_has_what_is_mounted_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mount = |target: &str| Mount::Bind(Bind::new("/dev/null", target));
        let bare = layer(dir.path(), &[mount("/data")]).expect("made");
        assert!(bare.join("proc").is_dir() && !bare.join("etc").exists() && !bare.join("var").exists());
        let mounts = [mount("/etc/hosts"), mount("/var/run/secrets/kubernetes.io/serviceaccount")];
        let full = layer(dir.path(), &mounts).expect("made");
        assert_ne!(bare, full);
        assert!(full.join("etc/hosts").is_file() && !full.join("etc/resolv.conf").exists());
        assert!(full.join("var/run/secrets/kubernetes.io/serviceaccount").is_dir());
        assert_eq!(layer(dir.path(), &mounts).expect("known"), full);
        let left = fs::read_dir(dir.path().join(FOLDER)).expect("a folder").count();
        assert_eq!(left, 2, "nothing half made stays");
    }
}
