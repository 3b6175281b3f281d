//! Writes the files of a volume so that readers see the old set or the new one, never a mix.
//!
//! ```text
//! volume/key -> ..data/key      ..data -> ..1700000000.42      ..1700000000.42/key
//! ```
//! A new directory is filled, then `..data` is swapped by a rename. Paths come from objects: they are checked to stay inside.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::content::Files;

const DATA: &str = "..data";
const FRESH: &str = "..data_tmp";

/// Makes the directory show exactly these files; group-owned by `group` if given. Nothing happens where they are there already.
///
/// # Errors
/// What the file system said, or a path that leaves the volume.
pub fn write(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    fs::create_dir_all(directory)?;
    if current(directory, files) {
        return Ok(());
    }
    let version = fresh_directory(directory)?;
    for (path, file) in files {
        let target = version.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        std::os::unix::fs::chown(&target, file.owner, group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    open_directories(&version, group)?;
    let old = fs::read_link(directory.join(DATA)).ok();
    let fresh = directory.join(FRESH);
    let _ = fs::remove_file(&fresh);
    let name = version.file_name().ok_or_else(|| io::Error::other("the version directory has a name"))?;
    symlink(name, &fresh)?;
    fs::rename(&fresh, directory.join(DATA))?;
    links(directory, files)?;
    if let Some(old) = old.filter(|old| is_version(old)) {
        let _ = fs::remove_dir_all(directory.join(old));
    }
    Ok(())
}

/// Whether a link names a version beside it, and nothing else: what it names is removed with all that is in it.
fn is_version(link: &Path) -> bool {
    let mut components = link.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn check(path: &str) -> io::Result<()> {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !path.is_empty() && !path.starts_with("..") {
        Ok(())
    } else {
        Err(io::Error::other(format!("path {path:?} leaves the volume")))
    }
}

/// Whether the directory shows exactly these files already.
fn current(directory: &Path, files: &Files) -> bool {
    let data = directory.join(DATA);
    if !data.exists() {
        return false;
    }
    let same = files.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.data));
    same && count(&data) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn fresh_directory(directory: &Path) -> io::Result<PathBuf> {
    let now = k8s_openapi::jiff::Timestamp::now();
    for attempt in 0..100u32 {
        let name = format!("..{}.{}.{attempt}", now.as_second(), now.subsec_nanosecond());
        match fs::create_dir(directory.join(&name)) {
            Ok(()) => return Ok(directory.join(name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name for a version"))
}

fn open_directories(directory: &Path, group: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path(), group)?;
        }
    }
    std::os::unix::fs::chown(directory, None, group)?;
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
}

/// One link per first path component; links of files that are gone go too.
fn links(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::content::File;

    fn files(names: &[&str]) -> Files {
        names.iter().map(|name| ((*name).to_owned(), File { data: b"new".to_vec(), mode: 0o644, owner: None })).collect()
    }

    /// Keys and items that would write elsewhere (CVE-2017-1002102 is about links that a pod puts into such a volume).
    #[test]
    fn nothing_outside_of_the_volume_is_written_or_removed() {
        let top = tempfile::tempdir().unwrap();
        let (volume, kept) = (top.path().join("volume"), top.path().join("kept"));
        fs::write(&kept, "kept").unwrap();
        for name in ["../kept", "/kept", "a/../../kept", "..", "", "..data/x", "./x/../../kept"] {
            assert!(write(&volume, &files(&[name]), None).is_err(), "{name}");
        }
        // A link that leads elsewhere is replaced and not followed to what is to be removed.
        for link in ["..", "../kept", top.path().to_str().unwrap()] {
            fs::create_dir_all(&volume).unwrap();
            symlink(link, volume.join(DATA)).unwrap();
            write(&volume, &files(&["key"]), None).unwrap();
            assert_eq!(fs::read(volume.join("key")).unwrap(), b"new");
            assert_eq!(fs::read_to_string(&kept).unwrap(), "kept", "{link}");
            fs::remove_dir_all(&volume).unwrap();
        }
    }
}
