//! Devices by name, as vendors describe them in files (Container Device Interface): what a container gets to use one.
//!
//! Files are read anew for each container that names a device, so that what vendors' tools write in between counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::{Bind, ContainerSpec, Device, HookKind, Mount, Propagation, UserRef};
use serde::Deserialize;

/// Folders of descriptions; what stands in a later one counts before what stands in an earlier one.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Annotations of containers that name devices begin like this.
const ANNOTATION: &str = "cdi.k8s.io/";

/// Devices cannot be given to a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdiError {
    /// Nobody describes them.
    #[error("CDI device injection failed: unresolvable CDI devices {}", .0.join(", "))]
    Unresolvable(Vec<String>),
    /// Two files of a folder describe the same one.
    #[error("CDI device injection failed: conflicting device {0:?} in {1:?} and {2:?}")]
    Conflict(String, PathBuf, PathBuf),
    /// A description asks for something that is not done here.
    #[error("CDI device injection failed: {0} of CDI device {1:?} is not supported")]
    Unsupported(String, String),
    /// A description says something that cannot be.
    #[error("CDI device injection failed: invalid CDI device {0:?}: {1}")]
    Invalid(String, String),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    kind: String,
    devices: Vec<Described>,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Described {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<MountEdit>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    gids: Vec<u32>,
    intel_rdt: Option<BTreeMap<String, Anything>>,
    net_devices: Vec<BTreeMap<String, Anything>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: u32,
    minor: u32,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MountEdit {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u64>,
}

/// A value that is only looked at for being there.
type Anything = serde::de::IgnoredAny;

/// A device with the file that describes it.
struct Found {
    file: PathBuf,
    folder: usize,
    device: Edits,
    common: Edits,
}

/// Names of the devices that a container's annotations ask for.
pub fn annotated(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let values = annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION)).map(|(_, value)| value);
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Adds to a container what the named devices need.
///
/// # Errors
/// One that nobody describes, or something that is not done here; the container is as it was then.
pub fn inject(spec: &mut ContainerSpec, names: &[String]) -> Result<(), CdiError> {
    inject_from(&FOLDERS.map(Path::new), spec, names)
}

fn inject_from(folders: &[&Path], spec: &mut ContainerSpec, names: &[String]) -> Result<(), CdiError> {
    let mut wanted: Vec<&String> = Vec::new();
    names.iter().for_each(|name| {
        if !wanted.contains(&name) {
            wanted.push(name)
        }
    });
    if wanted.is_empty() {
        return Ok(());
    }
    let found = describe(folders, &wanted)?;
    let missing: Vec<String> = wanted.iter().filter(|name| !found.contains_key(name.as_str())).map(|name| (*name).clone()).collect();
    if !missing.is_empty() {
        return Err(CdiError::Unresolvable(missing));
    }
    let mut files: Vec<&PathBuf> = Vec::new();
    let mut edited = spec.clone();
    for (name, found) in wanted.iter().filter_map(|name| Some((name, found.get(name.as_str())?))) {
        if !files.contains(&&found.file) {
            files.push(&found.file);
            edit(&mut edited, name, &found.common)?;
        }
        edit(&mut edited, name, &found.device)?;
    }
    *spec = edited;
    Ok(())
}

fn describe(folders: &[&Path], wanted: &[&String]) -> Result<BTreeMap<String, Found>, CdiError> {
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for (place, folder) in folders.iter().enumerate() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|kind| kind == "json" || kind == "yaml")).collect();
        files.sort();
        for path in files {
            let Some(file) = read(&path) else { continue };
            for device in file.devices {
                let name = format!("{}={}", file.kind, device.name);
                if !wanted.contains(&&name) {
                    continue;
                }
                if let Some(other) = all.get(&name).filter(|other| other.folder == place) {
                    return Err(CdiError::Conflict(name, other.file.clone(), path));
                }
                let found =
                    Found { file: path.clone(), folder: place, device: device.container_edits, common: file.container_edits.clone() };
                all.insert(name, found);
            }
        }
    }
    Ok(all)
}

/// JSON is YAML, so that one reader does. Files that say nothing are left out, as other runtimes leave them.
fn read(path: &Path) -> Option<File> {
    let text =
        std::fs::read_to_string(path).inspect_err(|error| tracing::warn!(file = %path.display(), "CDI description: {error}")).ok()?;
    let file: Result<File, _> = serde_saphyr::from_str(&text);
    file.inspect_err(|error| tracing::warn!(file = %path.display(), "CDI description: {error}")).ok()
}

fn edit(spec: &mut ContainerSpec, name: &str, edits: &Edits) -> Result<(), CdiError> {
    let unsupported = |what: String| Err(CdiError::Unsupported(what, name.to_owned()));
    if edits.intel_rdt.is_some() {
        return unsupported("intelRdt".to_owned());
    }
    if !edits.net_devices.is_empty() {
        return unsupported("a network device".to_owned());
    }
    for line in &edits.env {
        let key = line.split('=').next().unwrap_or("");
        spec.env.retain(|known| known.split('=').next() != Some(key));
        spec.env.push(line.clone());
    }
    for node in &edits.device_nodes {
        let host_path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        let permissions = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        spec.devices.retain(|known| known.container_path != Path::new(&node.path));
        let device = Device::new(host_path, &node.path, permissions);
        spec.devices.push(Device { node: described(spec, name, node)?, ..device });
    }
    for mount in &edits.mounts {
        if !matches!(mount.kind.as_str(), "" | "bind") {
            return unsupported(format!("a mount of type {:?}", mount.kind));
        }
        let has = |option: &str| mount.options.iter().any(|known| known == option);
        let mut bind = Bind::new(&mount.host_path, &mount.container_path);
        bind.read_only = has("ro");
        bind.propagation = match (has("rshared") || has("shared"), has("rslave") || has("slave")) {
            (true, _) => Propagation::Shared,
            (_, true) => Propagation::Slave,
            _ => Propagation::Private,
        };
        spec.mounts.retain(|known| known.target() != bind.target);
        spec.mounts.push(Mount::Bind(bind));
    }
    for hook in &edits.hooks {
        spec.hooks.push(described_hook(name, hook)?);
    }
    for gid in edits.gids.iter().filter(|gid| **gid != 0) {
        if !spec.user.supplemental.contains(gid) {
            spec.user.supplemental.push(*gid);
        }
    }
    Ok(())
}

/// What a description says of a node. Who runs as another user than 0 owns nodes that nobody else is said to own.
fn described(spec: &ContainerSpec, name: &str, node: &DeviceNode) -> Result<runtime::DeviceNode, CdiError> {
    let kind = match node.kind.as_str() {
        "" => None,
        "b" | "c" | "u" | "p" => node.kind.chars().next().map(|kind| if kind == 'u' { 'c' } else { kind }),
        other => return Err(CdiError::Invalid(name.to_owned(), format!("device {:?}: invalid type {other:?}", node.path))),
    };
    let number = kind.filter(|kind| node.major > 0 || *kind == 'p').map(|kind| (kind, node.major, node.minor));
    let user = if let UserRef::Id(uid) = spec.user.user { Some(uid).filter(|uid| *uid > 0) } else { None };
    let group = spec.user.group.filter(|gid| *gid > 0);
    Ok(runtime::DeviceNode { number, mode: node.file_mode, uid: node.uid.or(user), gid: node.gid.or(group) })
}

fn described_hook(name: &str, hook: &Hook) -> Result<runtime::Hook, CdiError> {
    let invalid = |text: String| CdiError::Invalid(name.to_owned(), text);
    let kind = HookKind::ALL.into_iter().find(|kind| kind.to_string() == hook.hook_name);
    let kind = kind.ok_or_else(|| invalid(format!("invalid hook name {:?}", hook.hook_name)))?;
    if !hook.path.starts_with('/') {
        return Err(invalid(format!("hook {kind}: the path {:?} is not absolute", hook.path)));
    }
    if let Some(line) = hook.env.iter().find(|line| !line.contains('=')) {
        return Err(invalid(format!("hook {kind}: invalid environment variable {line:?}")));
    }
    let timeout = hook.timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Ok(runtime::Hook { kind, path: (&hook.path).into(), args: hook.args.clone(), env: hook.env.clone(), timeout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::{ContainerId, Rootfs};

    const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: example.com/device
containerEdits:
  env: [COMMON=1]
devices:
- name: d0
  containerEdits:
    env: ["A=new", "B=2"]
    additionalGids: [44, 0]
    deviceNodes:
    - {path: /dev/d0, hostPath: /dev/zero, type: c, major: 1, minor: 5, fileMode: 438}
    - {path: /dev/null, permissions: r}
    mounts:
    - {hostPath: /usr/lib/a, containerPath: /usr/lib/a, options: [ro, nosuid, rbind]}
- name: d1
- name: hooked
  containerEdits: {hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, x], env: [A=b], timeout: 3}]}
- name: wrong
  containerEdits: {hooks: [{hookName: sometimes, path: /bin/hook}]}
- name: relative
  containerEdits: {hooks: [{hookName: poststop, path: hook}]}
- name: cache
  containerEdits: {intelRdt: {closID: a}}
- name: seen
  containerEdits: {deviceNodes: [{path: /dev/seen, hostPath: /dev/zero, fileMode: 384, uid: 7}, {path: /dev/pipe, type: p}]}
"#;

    fn spec() -> ContainerSpec {
        let rootfs = Rootfs::Directory("/".into());
        let mut spec = ContainerSpec::new(ContainerId::new("c").unwrap(), rootfs, vec!["a".into()]);
        spec.env = vec!["A=old".into(), "C=3".into()];
        spec
    }

    fn inject(folders: &[&Path], names: &[&str]) -> Result<ContainerSpec, String> {
        let mut spec = spec();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        inject_from(folders, &mut spec, &names).map(|()| spec).map_err(|error| error.to_string())
    }

    #[test]
    fn devices_are_found_and_added() {
        let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [etc.path(), run.path(), Path::new("/nonexistent")];
        std::fs::write(etc.path().join("a.yaml"), YAML).unwrap();
        std::fs::write(etc.path().join("broken.json"), "{").unwrap();
        std::fs::write(etc.path().join("other.txt"), YAML).unwrap();
        let found = inject(&folders, &["example.com/device=d0", "example.com/device=d1", "example.com/device=d0"]).unwrap();
        assert_eq!(found.env, ["C=3", "COMMON=1", "A=new", "B=2"]);
        assert_eq!(found.user.supplemental, [44]);
        let node = runtime::DeviceNode { number: Some(('c', 1, 5)), mode: Some(0o666), ..runtime::DeviceNode::default() };
        let first = Device { node, ..Device::new("/dev/zero", "/dev/d0", "rwm") };
        assert_eq!(found.devices, [first, Device::new("/dev/null", "/dev/null", "r")]);
        let seen = inject(&folders, &["example.com/device=seen"]).unwrap().devices;
        assert_eq!((seen[0].node.number, seen[0].node.mode, seen[0].node.uid), (None, Some(0o600), Some(7)));
        assert_eq!(seen[1].node.number, Some(('p', 0, 0)));
        assert!(matches!(&found.mounts[..], [Mount::Bind(bind)] if bind.read_only && bind.target == Path::new("/usr/lib/a")));
        let refused = inject(&folders, &["example.com/device=d0", "a/b=c", "a/b=d"]).unwrap_err();
        assert_eq!(refused, "CDI device injection failed: unresolvable CDI devices a/b=c, a/b=d");
        let hook = runtime::Hook {
            kind: HookKind::CreateContainer,
            path: "/bin/hook".into(),
            args: vec!["hook".into(), "x".into()],
            env: vec!["A=b".into()],
            timeout: Some(Duration::from_secs(3)),
        };
        assert_eq!(inject(&folders, &["example.com/device=hooked"]).unwrap().hooks, [hook]);
        for (device, why) in [
            ("wrong", "invalid CDI device \"example.com/device=wrong\": invalid hook name \"sometimes\""),
            ("relative", "invalid CDI device \"example.com/device=relative\": hook poststop: the path \"hook\" is not absolute"),
            ("cache", "intelRdt of CDI device \"example.com/device=cache\" is not supported"),
        ] {
            let refused = inject(&folders, &[&format!("example.com/device={device}")]).unwrap_err();
            assert_eq!(refused, format!("CDI device injection failed: {why}"));
        }
        // The later folder counts, and is JSON.
        let json = r#"{"cdiVersion":"0.6.0","kind":"example.com/device","devices":[{"name":"d1","containerEdits":{"env":["D=4"]}}]}"#;
        std::fs::write(run.path().join("b.json"), json).unwrap();
        assert_eq!(inject(&folders, &["example.com/device=d1"]).unwrap().env, ["A=old", "C=3", "D=4"]);
        std::fs::write(run.path().join("c.json"), json).unwrap();
        assert!(inject(&folders, &["example.com/device=d1"]).unwrap_err().contains("conflicting device"));
        assert!(inject(&folders, &["example.com/device=d0"]).is_ok());
    }

    #[test]
    fn annotations_name_devices() {
        let annotations = BTreeMap::from([("cdi.k8s.io/a_b".into(), "a/b=c, a/b=d".into()), ("other".into(), "a/b=e".into())]);
        assert_eq!(annotated(&annotations), ["a/b=c", "a/b=d"]);
        assert_eq!(inject(&[], &[]).unwrap().env, ["A=old", "C=3"]);
    }
}
