//! Who a container runs as, looked up in its own `/etc/passwd` and `/etc/group`.
//!
//! Both files come from the image and are hostile: only regular files are read, at most [`LARGEST`] bytes of them, and
//! lines that do not parse are passed over.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{FileType, OFlags};

use super::{BadDescription, resolve};
use crate::spec::{SupplementalGroups, User, UserRef};
use crate::status::ResolvedUser;

/// Largest part of a file that is read.
const LARGEST: u64 = 1 << 20;
/// Largest number of a user or group. The kernel knows larger ones, but takes the largest of all for "as it was", which here is
/// root (CVE-2024-40635 was about the same numbers).
const LARGEST_ID: u32 = i32::MAX as u32;
/// Most supplementary groups that the files may add.
const MOST_GROUPS: usize = 1024;

/// A user with its home directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub user: ResolvedUser,
    pub home: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Looks a user up below an open root.
pub(super) fn resolve(root: impl AsFd, wanted: &User) -> anyhow::Result<Account> {
    let passwd = read(&root, "etc/passwd").context("read /etc/passwd of the image")?;
    let group = read(&root, "etc/group").context("read /etc/group of the image")?;
    Ok(choose(wanted, &passwd, &group)?)
}

fn choose(wanted: &User, passwd: &str, group: &str) -> Result<Account, BadDescription> {
    let (user, named_group) = match &wanted.user {
        UserRef::Root => ("0".to_owned(), None),
        UserRef::Id(uid) => (uid.to_string(), None),
        UserRef::Name(text) => match text.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group).filter(|g| !g.is_empty())),
            None => (text.clone(), None),
        },
    };
    let user = if user.is_empty() { "0".to_owned() } else { user };
    let number: Option<u32> = user.parse().ok();
    let mut entries = passwd.lines().filter_map(entry);
    let found = match number {
        Some(uid) => entries.find(|e| e.uid == uid),
        None => entries.find(|e| e.name == user),
    };
    let uid = match (&found, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(BadDescription(format!("unable to find user {user}: no matching entries in passwd file")));
        }
    };
    let groups = || group.lines().filter_map(group_line);
    let gid = match (wanted.group, named_group) {
        (Some(gid), _) => gid,
        (None, Some(name)) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => groups()
                .find(|g| g.name == name)
                .map(|g| g.gid)
                .ok_or_else(|| BadDescription(format!("unable to find group {name}: no matching entries in group file")))?,
        },
        (None, None) => found.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut supplemental = wanted.supplemental.clone();
    if wanted.policy == SupplementalGroups::Merge
        && let Some(entry) = &found
    {
        let member = |g: &Group<'_>| g.members.split(',').any(|member| member == entry.name);
        supplemental.extend(groups().filter(member).take(MOST_GROUPS).map(|g| g.gid));
    }
    // The main group is listed, too, as login programs do it.
    supplemental.push(gid);
    supplemental.sort_unstable();
    supplemental.dedup();
    if let Some(id) = supplemental.iter().chain([&uid]).find(|id| **id > LARGEST_ID) {
        return Err(BadDescription(format!("user or group {id} is out of range: it must be between 0 and {LARGEST_ID}")));
    }
    let home = found.map(|entry| entry.home).filter(|home| home.starts_with('/')).unwrap_or_else(|| "/".into());
    Ok(Account { user: ResolvedUser { uid, gid, supplemental }, home })
}

fn entry(line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, ..] = fields[..] else { return None };
    let home = fields.get(5).copied().unwrap_or("").to_owned();
    Some(Entry { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_line(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Group { name, gid: gid.parse().ok()?, members: fields.next().unwrap_or("").trim() })
}

/// The text of a file of the image; empty when there is none.
fn read(root: impl AsFd, path: &str) -> std::io::Result<String> {
    let fd = match resolve::open(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:Web:/var/www:/bin/false\nbad:x:-1:0::/:\nall:x:4294967295:0::/:\n\
                          group:x:7:4294967295::/:";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:4:other,web\nx:x:9:webby\n";

    fn check(user: UserRef, group: Option<u32>, supplemental: &[u32], policy: SupplementalGroups, want: &str) {
        let user = User { user, group, supplemental: supplemental.to_vec(), policy };
        let got = match choose(&user, PASSWD, GROUP) {
            Ok(a) => format!("{}:{} {:?} {}", a.user.uid, a.user.gid, a.user.supplemental, a.home),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn users_follow_the_image() {
        let name = |text: &str| UserRef::Name(text.into());
        let merge = SupplementalGroups::Merge;
        check(UserRef::Root, None, &[], merge, "0:0 [0] /root");
        check(UserRef::Id(101), None, &[2000], merge, "101:102 [4, 102, 2000] /var/www");
        check(UserRef::Id(101), Some(3000), &[], SupplementalGroups::Strict, "101:3000 [3000] /var/www");
        check(UserRef::Id(5), None, &[], merge, "5:0 [0] /");
        check(name("web"), None, &[], merge, "101:102 [4, 102] /var/www");
        check(name("web:logs"), None, &[], merge, "101:4 [4] /var/www");
        check(name("7:8"), None, &[], merge, "7:8 [8] /");
        check(name(""), None, &[], merge, "0:0 [0] /root");
        check(name("nobody"), None, &[], merge, "unable to find user nobody: no matching entries in passwd file");
        let wrong = "user or group 4294967295 is out of range: it must be between 0 and 2147483647";
        check(UserRef::Id(u32::MAX), None, &[], merge, wrong);
        check(UserRef::Id(5), Some(u32::MAX), &[], merge, wrong);
        check(UserRef::Id(5), None, &[u32::MAX], merge, wrong);
        for text in ["4294967295", "5:4294967295", "all", "group"] {
            check(name(text), None, &[], merge, wrong);
        }
        check(name("4294967296"), None, &[], merge, "unable to find user 4294967296: no matching entries in passwd file");
        check(name("2147483647:2147483647"), None, &[], merge, "2147483647:2147483647 [2147483647] /");
        check(name("web:no"), None, &[], merge, "unable to find group no: no matching entries in group file");
    }
}
