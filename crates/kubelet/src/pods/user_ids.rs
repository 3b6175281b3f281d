//! Users of pods that have their own (`hostUsers: false`): which range of the node's ids a pod gets, so that no two pods
//! share one, and none meets the node's own users.
//!
//! A pod's range stands in the file `userns` of its folder, as upstream writes it, so that it keeps it over a restart of ours.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;
use runtime::{IdMapping, UserNs};
use serde::{Deserialize, Serialize};

/// Ids of one pod where nothing else is said, and what every number of them is a multiple of.
pub const UNIT: u32 = 65536;
/// File of a pod's folder.
const FILE: &str = "userns";
/// User of the node whose subordinate ids are for pods.
const OWNER: &str = "kubelet";

/// Why pods cannot have users of their own as configured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    /// A number that does not fit the others.
    #[error("kubelet user assigned ids {first} to {first}+{length} do not fit {per_pod} ids per pod and {pods} pods: {why}")]
    Unfit {
        /// First id.
        first: u32,
        /// How many.
        length: u32,
        /// Of each pod.
        per_pod: u32,
        /// Most pods.
        pods: u32,
        /// What does not fit.
        why: &'static str,
    },
    /// The node's subordinate ids cannot be used.
    #[error("subordinate ids of user \"kubelet\": {0}")]
    Subordinate(String),
}

/// The ranges in use.
#[derive(Debug)]
pub struct UserIds {
    first: u32,
    per_pod: u32,
    count: u32,
    /// Number of the range by pod UID.
    used: Mutex<HashMap<String, u32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    uid_mappings: Vec<KeptRange>,
    gid_mappings: Vec<KeptRange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptRange {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl UserIds {
    /// The ranges of a node, with those that pods below `pods` have already.
    ///
    /// # Errors
    /// Numbers that do not fit one another.
    pub fn open(per_pod: u32, max_pods: u32, pods: &Path) -> Result<UserIds, RangeError> {
        let (first, length) = subordinate()?;
        let ids = UserIds::of(first, length, per_pod, max_pods)?;
        for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            match read(&entry.path()) {
                Ok(Some(kept)) => {
                    if let Err(error) = ids.note(&uid, &kept) {
                        tracing::error!(pod = uid, "user ids of an earlier run: {error}");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(pod = uid, "user ids of an earlier run: {error}"),
            }
        }
        Ok(ids)
    }

    fn of(first: u32, length: u32, per_pod: u32, max_pods: u32) -> Result<UserIds, RangeError> {
        let unfit = |why| RangeError::Unfit { first, length, per_pod, pods: max_pods, why };
        if per_pod == 0 || !per_pod.is_multiple_of(UNIT) {
            return Err(unfit("ids per pod are not a multiple of 65536"));
        }
        if !first.is_multiple_of(per_pod) || !length.is_multiple_of(per_pod) {
            return Err(unfit("they are not multiples of the ids per pod"));
        }
        if first < per_pod {
            return Err(unfit("the first is below the ids per pod, where the node's own users are"));
        }
        if length / per_pod < max_pods {
            return Err(unfit("they are not enough"));
        }
        Ok(UserIds { first, per_pod, count: length / per_pod, used: Mutex::default() })
    }

    /// The range of a pod, given now if it has none yet, and written into its folder.
    ///
    /// # Errors
    /// None is left, or the pod's file cannot be used.
    pub fn of_pod(&self, uid: &str, dir: &Path) -> Result<UserNs, String> {
        if let Some(kept) = read(dir)? {
            return self.note(uid, &kept).map(|number| self.map(number));
        }
        let number = {
            let mut used = self.used.lock();
            // A pod that lost its file keeps what it was given.
            match used.get(uid) {
                Some(number) => *number,
                None => {
                    let taken: std::collections::HashSet<u32> = used.values().copied().collect();
                    let free = (0..self.count).find(|number| !taken.contains(number));
                    let number = free.ok_or("could not find an empty slot to allocate a user namespace")?;
                    used.insert(uid.to_owned(), number);
                    number
                }
            }
        };
        let range = KeptRange { host_id: self.host_id(number), container_id: 0, length: self.per_pod };
        let written = write(dir, &Kept { uid_mappings: vec![range], gid_mappings: vec![range] });
        written.map_err(|error| {
            self.release(uid);
            format!("write the user ids of the pod: {error}")
        })?;
        Ok(self.map(number))
    }

    /// Gives a pod's range back. Nothing of the pod may run any more.
    pub fn release(&self, uid: &str) {
        self.used.lock().remove(uid);
    }

    fn host_id(&self, number: u32) -> u32 {
        self.first + number * self.per_pod
    }

    fn map(&self, number: u32) -> UserNs {
        let range = IdMapping { container_id: 0, host_id: self.host_id(number), size: self.per_pod };
        UserNs { uids: vec![range], gids: vec![range] }
    }

    /// Notes what a pod's file says; the number of its range.
    fn note(&self, uid: &str, kept: &Kept) -> Result<u32, String> {
        let ([users], [groups]) = (&kept.uid_mappings[..], &kept.gid_mappings[..]) else {
            return Err("invalid user namespace configuration: there must be one mapping of users and one of groups".into());
        };
        if users != groups || users.container_id != 0 || users.length != self.per_pod {
            return Err("invalid user namespace configuration: it is not as this node would have it".into());
        }
        let number =
            users.host_id.checked_sub(self.first).filter(|offset| offset.is_multiple_of(self.per_pod)).map(|offset| offset / self.per_pod);
        let number = number.filter(|number| *number < self.count).ok_or_else(|| format!("id {} is out of range", users.host_id))?;
        let mut used = self.used.lock();
        if used.iter().any(|(other, taken)| *taken == number && other != uid) {
            return Err(format!("range picked for pod {uid:?} already taken"));
        }
        match used.insert(uid.to_owned(), number) {
            Some(before) if before != number => {
                used.insert(uid.to_owned(), before);
                Err(format!("different user namespace range already used by pod {uid:?}"))
            }
            _ => Ok(number),
        }
    }
}

fn read(dir: &Path) -> Result<Option<Kept>, String> {
    match std::fs::read(dir.join(FILE)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| format!("invalid user namespace mappings file: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Other files lie beside the folders of pods.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// A range that was given must not be given again after a crash, so that it is on the disk before it is used.
fn write(dir: &Path, kept: &Kept) -> std::io::Result<()> {
    let new = dir.join(format!(".{FILE}"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// First id and number of ids that the node leaves to pods: those of the user `kubelet`, if there is one and the program
/// that tells them, or all above the first 65536.
fn subordinate() -> Result<(u32, u32), RangeError> {
    let all = (UNIT, u32::MAX - UNIT + 1);
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !passwd.lines().any(|line| line.split(':').next() == Some(OWNER)) {
        return Ok(all);
    }
    let Some(program) = find("getsubids") else { return Ok(all) };
    let ask = |kind: &[&str]| {
        let answer = Command::new(&program).args(kind).arg(OWNER).output().map_err(|error| RangeError::Subordinate(error.to_string()))?;
        if !answer.status.success() {
            return Err(RangeError::Subordinate("they could not be read".into()));
        }
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    };
    let (users, groups) = (ask(&[])?, ask(&["-g"])?);
    if users != groups {
        return Err(RangeError::Subordinate("those of users and of groups differ".into()));
    }
    parse(&users)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// One line as `getsubids` writes it: `0: kubelet 65536 7208960`.
fn parse(text: &str) -> Result<(u32, u32), RangeError> {
    let wrong = || RangeError::Subordinate(format!("{text:?} is not one range"));
    let [line] = text.trim_matches('\n').lines().collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let [_, _, first, length] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(wrong()) };
    Ok((first.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_differ_and_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pods = |name: &str| {
            let pod = dir.path().join(name);
            std::fs::create_dir_all(&pod).unwrap();
            pod
        };
        let ids = UserIds::of(131_072, 3 * UNIT, UNIT, 3).unwrap();
        let first = |ids: &UserIds, name: &str| ids.of_pod(name, &pods(name)).map(|map| map.uids[0].host_id);
        assert_eq!([first(&ids, "a"), first(&ids, "b"), first(&ids, "a")], [Ok(131_072), Ok(196_608), Ok(131_072)]);
        // Another run finds them again.
        let again = UserIds::of(131_072, 3 * UNIT, UNIT, 3).unwrap();
        assert_eq!([first(&again, "b"), first(&again, "a"), first(&again, "c")], [Ok(196_608), Ok(131_072), Ok(262_144)]);
        assert!(first(&again, "d").unwrap_err().contains("empty slot"));
        again.release("a");
        std::fs::remove_dir_all(pods("a")).unwrap();
        assert_eq!(first(&again, "d"), Ok(131_072));
        // What somebody else wrote is not believed.
        for (text, error) in [
            ("{}", "invalid user namespace mappings file"),
            (
                r#"{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}"#,
                "out of range",
            ),
            (
                r#"{"uidMappings":[{"hostId":196608,"containerId":0,"length":65536}],"gidMappings":[{"hostId":196608,"containerId":0,"length":65536}]}"#,
                "already taken",
            ),
            (r#"{"uidMappings":[],"gidMappings":[]}"#, "one mapping"),
        ] {
            std::fs::write(pods("e").join(FILE), text).unwrap();
            assert!(first(&again, "e").unwrap_err().contains(error), "{text}");
        }
    }

    #[test]
    fn numbers_must_fit() {
        assert!(UserIds::of(UNIT, u32::MAX - UNIT + 1, UNIT, 110).is_ok());
        for (first, length, per_pod, why) in [
            (UNIT, 2 * UNIT, 1000, "multiple of 65536"),
            (1000, 2 * UNIT, UNIT, "multiples of the ids per pod"),
            (0, 2 * UNIT, UNIT, "the node's own users"),
            (UNIT, UNIT, UNIT, "not enough"),
        ] {
            assert!(UserIds::of(first, length, per_pod, 2).unwrap_err().to_string().contains(why), "{why}");
        }
        assert_eq!(parse("0: kubelet 65536 7208960\n"), Ok((65536, 7_208_960)));
        assert!(parse("0: kubelet 65536 1\n1: kubelet 9 9\n").is_err() && parse("0: kubelet x 1").is_err());
    }
}
