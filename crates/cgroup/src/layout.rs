//! Finds out which controllers are mounted where, as this process sees them.
//!
//! Mounts are read from our own `mountinfo`, so a bind-mounted or nested root (a node in name spaces of its own) counts
//! as the top: paths of groups are relative to what is visible.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Which interface the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Controllers in hierarchies of their own.
    V1,
    /// One unified hierarchy.
    V2,
    /// Controllers on version 1 and a unified hierarchy beside them.
    Hybrid,
}

/// Where the controllers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    version: Version,
    /// Version 1 controllers and their mount points; several may share one.
    controllers: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
    /// Distinct version 1 directories that hold our groups.
    hierarchies: Vec<PathBuf>,
    /// Controllers that the unified hierarchy offers and that we use.
    offered: Vec<&'static str>,
}

/// Controllers that we ask for in the unified hierarchy.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Version 1 controllers that limit or count something for us.
const USED: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "pids", "hugetlb"];

impl Layout {
    /// Reads the mounts of this process.
    pub fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(|source| Error::File { deed: "read", path: path.into(), source })?;
        Self::from_mountinfo(&text)
    }

    /// Reads a text in the form of `/proc/self/mountinfo`.
    pub fn from_mountinfo(text: &str) -> Result<Self, Error> {
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for line in text.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let point = PathBuf::from(point.replace("\\040", " "));
            let mut fields = file_system.split(' ');
            match fields.next() {
                Some("cgroup2") if unified.is_none() || point.starts_with("/sys/fs/cgroup") => unified = Some(point),
                Some("cgroup") => {
                    for option in fields.nth(1).unwrap_or("").split(',') {
                        let inside = point.starts_with("/sys/fs/cgroup");
                        if inside || !controllers.contains_key(option) {
                            controllers.insert(option.to_owned(), point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        let mut used: Vec<&str> = USED.to_vec();
        if unified.is_none() {
            used.push("freezer");
        }
        let mut hierarchies: Vec<PathBuf> = Vec::new();
        for name in used {
            if let Some(dir) = controllers.get(name)
                && !hierarchies.contains(dir)
            {
                hierarchies.push(dir.clone());
            }
        }
        let version = match (hierarchies.is_empty(), &unified) {
            (true, None) => return Err(Error::NotMounted),
            (true, Some(_)) => Version::V2,
            (false, None) => Version::V1,
            (false, Some(_)) => Version::Hybrid,
        };
        let offered = unified.as_ref().map(|root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default());
        let offered = offered.unwrap_or_default();
        let offered = WANTED.into_iter().filter(|name| offered.split_whitespace().any(|word| word == *name)).collect();
        Ok(Self { version, controllers, unified, hierarchies, offered })
    }

    /// Which interface.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Mount point of the unified hierarchy.
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Mount point of the hierarchy that serves a controller, whatever the version.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        if self.version == Version::V2 {
            return self.unified();
        }
        self.controllers.get(name).map(PathBuf::as_path)
    }

    /// Every version 1 mount point, each once, whether we use it or not.
    pub fn v1_mounts(&self) -> Vec<&Path> {
        let mut mounts: Vec<&Path> = self.controllers.values().map(PathBuf::as_path).collect();
        mounts.sort_unstable();
        mounts.dedup();
        mounts
    }

    /// Whether a controller limits and counts anything here.
    pub fn has(&self, name: &str) -> bool {
        self.is_v1(name) || self.offered.contains(&name)
    }

    /// Version 1 mount points that hold our groups, each once.
    pub fn hierarchies(&self) -> &[PathBuf] {
        &self.hierarchies
    }

    /// Controllers that the unified hierarchy offers and that we use.
    pub(crate) fn offered(&self) -> &[&'static str] {
        &self.offered
    }

    /// Whether a controller is served by version 1 files.
    pub fn is_v1(&self, name: &str) -> bool {
        self.version != Version::V2 && self.controllers.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_version() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  36 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer";
        let hybrid = format!("{v1}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
        for (text, version, dirs) in [(v2, Version::V2, 0), (v1, Version::V1, 3), (hybrid.as_str(), Version::Hybrid, 2)] {
            let layout = Layout::from_mountinfo(text).expect("a layout");
            assert_eq!(layout.version(), version);
            assert_eq!(layout.hierarchies().len(), dirs);
        }
        assert!(matches!(Layout::from_mountinfo("22 27 0:21 / /proc rw - proc proc rw"), Err(Error::NotMounted)));
    }

    #[test]
    fn shared_controllers_share_a_directory() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        let layout = Layout::from_mountinfo(text).expect("a layout");
        assert_eq!(layout.controller("cpu"), layout.controller("cpuacct"));
    }
}
