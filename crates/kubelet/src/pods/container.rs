//! From a container of a pod to what the runtime shall start: a pure function over what was gathered before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::Image;
use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec, SecurityContext, VolumeDevice, VolumeMount};
use runtime::{
    Bind, Capabilities, ContainerId, ContainerSpec, Device, ImageMount, LogSpec, Mount, PidMode, Propagation, Rootfs, Seccomp, Source,
    SupplementalGroups, User, UserRef,
};

use super::env::expand;
use super::huge_pages;
use super::limits::{self, Class};
use super::model::{self, Member, Role};
use super::signals;
use crate::devices::Extras;
use crate::devices::messages::{DeviceSpec, Mount as DeviceMount};
use crate::placement::Place;
use crate::volumes::Mounted;

/// Everything a container is made of.
pub struct Parts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub member: &'a Member,
    /// Which attempt.
    pub attempt: u32,
    /// Its image.
    pub image: &'a Image,
    /// Another runtime starts it, which knows itself what the image runs.
    pub foreign: bool,
    /// Layer directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// Its environment without what the image sets.
    pub env: Vec<(String, String)>,
    /// The pod's volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// Directory of the pod on the node.
    pub pod_dir: &'a Path,
    /// Directory of the pod's logs.
    pub log_dir: &'a Path,
    /// The seccomp profile of the node that it asks for.
    pub profile: Option<String>,
    /// Size at which the log is rotated.
    pub log_max_size: u64,
    /// Files kept of the log.
    pub log_max_files: u32,
    /// The pod's class.
    pub class: Class,
    /// Memory of the node, in bytes.
    pub node_memory: i64,
    /// Bytes of swap; none says nothing about it.
    pub swap: Option<i64>,
    /// Where its processes run.
    pub place: Place,
    /// Sizes of huge pages that it is limited in.
    pub huge_pages: Vec<u64>,
    /// What it gets to use its devices.
    pub extras: &'a Extras,
    /// Running container that `targetContainerName` means.
    pub target: Option<ContainerId>,
}

/// Name of an attempt at the runtime.
pub fn id(name: &str, attempt: u32) -> Result<ContainerId, String> {
    ContainerId::new(format!("{name}-{attempt}")).map_err(|error| error.to_string())
}

/// What the runtime shall start.
///
/// # Errors
/// A text for `CreateContainerConfigError`.
pub fn spec(parts: &Parts) -> Result<ContainerSpec, String> {
    let empty = PodSpec::default();
    let pod_spec = parts.pod.spec.as_ref().unwrap_or(&empty);
    let container = &parts.member.spec;
    let security = container.security_context.clone().unwrap_or_default();
    let pod_security = pod_spec.security_context.clone().unwrap_or_default();
    let lookup = |name: &str| parts.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let argv = argv(parts, &lookup)?;
    let writable = parts.pod_dir.join("containers").join(&container.name).join(parts.attempt.to_string());
    let mut layers = parts.layers.clone();
    layers.reverse();
    let mut spec = ContainerSpec::new(id(&container.name, parts.attempt)?, Rootfs::Overlay { layers, writable: writable.clone() }, argv);
    spec.labels = labels(parts);
    spec.annotations = annotations(parts);
    spec.read_only_root = security.read_only_root_filesystem == Some(true);
    spec.env = environment(parts);
    spec.cwd = container.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| parts.image.config.working_dir.clone());
    spec.user = user(parts, &security, &pod_security)?;
    spec.privileged = security.privileged == Some(true);
    let caps = security.capabilities.clone().unwrap_or_default();
    spec.capabilities = Capabilities::from_pod(&caps.add.unwrap_or_default(), &caps.drop.unwrap_or_default(), spec.privileged);
    spec.no_new_privs = security.allow_privilege_escalation == Some(false);
    spec.seccomp = seccomp(parts, &security, &pod_security)?;
    if spec.privileged || security.proc_mount.as_deref() == Some("Unmasked") {
        spec.masked_paths = Vec::new();
        spec.read_only_paths = Vec::new();
    }
    spec.mounts = mounts(parts, pod_spec, &lookup, &writable)?;
    spec.devices.extend(devices(parts)?);
    spec.pid = pid(parts, pod_spec);
    spec.tty = container.tty == Some(true);
    spec.stdin = container.stdin == Some(true);
    spec.stdin_once = container.stdin_once == Some(true);
    spec.limits = limits::container(container.resources.as_ref());
    spec.limits.hugepages = huge_pages::of_container(pod_spec, container, &parts.huge_pages);
    if parts.place.exclusive {
        // Who has processors alone is not slowed down on them.
        spec.limits.cpu_quota = spec.limits.cpu_quota.map(|_| -1);
    }
    spec.devices.extend(parts.extras.devices.iter().map(device));
    spec.annotations.extend(parts.extras.annotations.clone());
    spec.limits.cpuset_cpus.clone_from(&parts.place.cpus);
    spec.limits.cpuset_mems.clone_from(&parts.place.mems);
    let critical = pod_spec.priority.unwrap_or(0) >= model::SYSTEM_CRITICAL;
    spec.limits.swap_limit = parts.swap;
    spec.oom_score_adj = Some(limits::oom_score(parts.class, container.resources.as_ref(), parts.node_memory, critical));
    spec.log = Some(LogSpec {
        path: parts.log_dir.join(&container.name).join(format!("{}.log", parts.attempt)),
        max_size: parts.log_max_size,
        max_files: parts.log_max_files,
    });
    let signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let signal = signal.unwrap_or_else(|| parts.image.config.stop_signal.clone());
    spec.stop_signal = signals::parse(&signal);
    if let Some(signal) = spec.stop_signal {
        spec.annotations.insert(model::ANNOTATION_STOP_SIGNAL.to_owned(), signal.to_string());
    }
    Ok(spec)
}

/// The container's own command and arguments.
fn words(parts: &Parts, lookup: &impl Fn(&str) -> Option<String>) -> (Vec<String>, Vec<String>) {
    let container = &parts.member.spec;
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, lookup)).collect::<Vec<String>>();
    (expanded(&container.command), expanded(&container.args))
}

/// What another runtime is told to run: the command and the arguments where the container has its own.
pub fn command(parts: &Parts) -> (Vec<String>, Vec<String>) {
    words(parts, &|name: &str| parts.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

/// `command` replaces the entrypoint and drops the image's arguments; `args` replaces the arguments.
fn argv(parts: &Parts, lookup: &impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let (command, args) = words(parts, lookup);
    let config = &parts.image.config;
    let argv: Vec<String> = match (command.is_empty(), args.is_empty()) {
        (false, _) => command.into_iter().chain(args).collect(),
        (true, false) => config.entrypoint.iter().cloned().chain(args).collect(),
        (true, true) => config.entrypoint.iter().chain(&config.cmd).cloned().collect(),
    };
    if argv.is_empty() && !parts.foreign { Err("no command specified".into()) } else { Ok(argv) }
}

fn environment(parts: &Parts) -> Vec<String> {
    let from_image = parts.image.config.env.iter().filter(|line| {
        let name = line.split('=').next().unwrap_or("");
        !parts.env.iter().any(|(known, _)| known == name) && !parts.extras.env.contains_key(name)
    });
    let set = |name: &str| parts.env.iter().any(|(known, _)| known == name);
    let from_devices = parts.extras.env.iter().filter(|(name, _)| !set(name)).map(|(name, value)| format!("{name}={value}"));
    let own = parts.env.iter().map(|(name, value)| format!("{name}={value}"));
    from_image.cloned().chain(from_devices).chain(own).collect()
}

fn labels(parts: &Parts) -> BTreeMap<String, String> {
    BTreeMap::from([
        (model::LABEL_NAME.to_owned(), parts.member.spec.name.clone()),
        (model::LABEL_ATTEMPT.to_owned(), parts.attempt.to_string()),
        ("namespace".to_owned(), model::namespace(parts.pod).to_owned()),
        ("pod".to_owned(), model::name(parts.pod).to_owned()),
    ])
}

fn annotations(parts: &Parts) -> BTreeMap<String, String> {
    let asked = parts.member.spec.image.clone().unwrap_or_default();
    let shown = image::Reference::parse(&asked).map_or_else(|_| asked.clone(), |reference| reference.to_string());
    BTreeMap::from([
        (model::ANNOTATION_IMAGE_ID.to_owned(), parts.image.image_id_for(&asked)),
        (model::ANNOTATION_IMAGE.to_owned(), shown),
        (model::ANNOTATION_STORED.to_owned(), parts.image.id.clone()),
        (model::ANNOTATION_HASH.to_owned(), hash(parts.member)),
    ])
}

/// What makes a restart necessary when it changes: the image.
pub fn hash(member: &Member) -> String {
    member.spec.image.clone().unwrap_or_default()
}

fn user(parts: &Parts, security: &SecurityContext, pod: &PodSecurityContext) -> Result<User, String> {
    let id = |value: i64| u32::try_from(value).map_err(|_| format!("user or group {value} is out of range"));
    let asked = security.run_as_user.or(pod.run_as_user);
    let from_image = &parts.image.config.user;
    let user = match asked {
        Some(uid) => UserRef::Id(id(uid)?),
        None if from_image.is_empty() => UserRef::Root,
        None => UserRef::Name(from_image.clone()),
    };
    if security.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        not_root(parts, &user)?;
    }
    let mut supplemental = Vec::new();
    for gid in pod.supplemental_groups.iter().flatten().chain(pod.fs_group.iter()) {
        supplemental.push(id(*gid)?);
    }
    Ok(User {
        user,
        group: security.run_as_group.or(pod.run_as_group).map(id).transpose()?,
        supplemental,
        policy: if pod.supplemental_groups_policy.as_deref() == Some("Strict") {
            SupplementalGroups::Strict
        } else {
            SupplementalGroups::Merge
        },
    })
}

fn not_root(parts: &Parts, user: &UserRef) -> Result<(), String> {
    let Some(why) = may_be_root(user) else { return Ok(()) };
    let (name, namespace, uid) = (model::name(parts.pod), model::namespace(parts.pod), model::uid(parts.pod));
    Err(format!("{why} (pod: \"{name}_{namespace}({uid})\", container: {})", parts.member.spec.name))
}

/// Why a user is root, or may be: names are looked up in the image, which can say of each that it is root.
fn may_be_root(user: &UserRef) -> Option<String> {
    match user {
        UserRef::Id(0) => Some("container's runAsUser breaks non-root policy".into()),
        UserRef::Id(_) => None,
        UserRef::Root => Some("container has runAsNonRoot and image will run as root".into()),
        UserRef::Name(name) => match name.split(':').next().unwrap_or("").parse::<u32>() {
            Ok(0) => Some("container has runAsNonRoot and image will run as root".into()),
            Ok(_) => None,
            Err(_) => Some(format!("container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root")),
        },
    }
}

fn seccomp(parts: &Parts, security: &SecurityContext, pod: &PodSecurityContext) -> Result<Seccomp, String> {
    let profile = security.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    match profile.map(|profile| profile.type_.as_str()) {
        _ if security.privileged == Some(true) => Ok(Seccomp::Unconfined),
        Some("RuntimeDefault") => Ok(Seccomp::RuntimeDefault),
        Some("Localhost") => parts.profile.clone().map(Seccomp::Custom).ok_or_else(|| "the seccomp profile was not read".to_owned()),
        Some("Unconfined") | None => Ok(Seccomp::Unconfined),
        Some(other) => Err(format!("unknown type of seccomp profile {other:?}")),
    }
}

fn pid(parts: &Parts, pod: &PodSpec) -> PidMode {
    match &parts.target {
        Some(target) if parts.member.role == Role::Ephemeral => PidMode::Target(target.clone()),
        _ if pod.host_pid == Some(true) => PidMode::Host,
        _ if pod.share_process_namespace == Some(true) => PidMode::Pod,
        _ => PidMode::Container,
    }
}

/// Path on the node of a container's termination message.
pub fn termination_file(pod_dir: &Path, name: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(name).join(format!("termination-log-{attempt}"))
}

fn mounts(parts: &Parts, pod: &PodSpec, lookup: &impl Fn(&str) -> Option<String>, _writable: &Path) -> Result<Vec<Mount>, String> {
    let container = &parts.member.spec;
    let mut mounts: Vec<Mount> = parts.extras.mounts.iter().map(device_mount).collect();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = parts
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name))?;
        mounts.push(volume_mount(mount, volume, lookup)?);
    }
    let taken = |path: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == path);
    let etc = parts.pod_dir.join("etc");
    for (file, target) in [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")] {
        if !taken(target) && !(file == "hostname" && pod.host_network == Some(true)) {
            mounts.push(Mount::Bind(Bind::new(etc.join(file), target)));
        }
    }
    let message = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !taken(message) {
        mounts.push(Mount::Bind(Bind::new(termination_file(parts.pod_dir, &container.name, parts.attempt), message)));
    }
    if pod.host_users == Some(false) {
        for mount in &mut mounts {
            if let Mount::Bind(bind) = mount {
                bind.id_mapped = true;
            }
        }
    }
    Ok(mounts)
}

fn device(device: &DeviceSpec) -> Device {
    Device::new(&device.host_path, &device.container_path, &device.permissions)
}

fn device_mount(mount: &DeviceMount) -> Mount {
    let mut bind = Bind::new(&mount.host_path, target(&mount.container_path));
    bind.read_only = mount.read_only;
    Mount::Bind(bind)
}

fn volume_mount(mount: &VolumeMount, volume: &Mounted, lookup: &impl Fn(&str) -> Option<String>) -> Result<Mount, String> {
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => sub_path(expression, lookup)?,
        _ => String::new(),
    };
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(format!(
            "failed to prepare subPath for volumeMount {:?} of container: subPath {sub_path:?} must be a relative path without ..",
            mount.name
        ));
    }
    match volume {
        Mounted::Image(layers) => {
            Ok(Mount::Image(ImageMount { layers: layers.clone(), target: mount.mount_path.clone().into(), sub_path: sub_path.into() }))
        }
        Mounted::Device(path) => Err(format!("volume {:?} is a block device ({}) and cannot be mounted", mount.name, path.display())),
        Mounted::Path { path, read_only } => {
            let mut bind = Bind::new(path.clone(), target(&mount.mount_path));
            if !sub_path.is_empty() {
                bind.source = Source::Beneath { root: path.clone(), path: sub_path.into() };
            }
            bind.read_only = *read_only || mount.read_only == Some(true);
            bind.recursive_read_only = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
            bind.propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::Slave,
                Some("Bidirectional") => Propagation::Shared,
                _ => Propagation::Private,
            };
            Ok(Mount::Bind(bind))
        }
    }
}

/// Devices of volumes, at the places that the container wants them.
fn devices(parts: &Parts) -> Result<Vec<Device>, String> {
    let wanted = parts.member.spec.volume_devices.iter().flatten();
    let device = |device: &VolumeDevice| match parts.volumes.get(&device.name) {
        Some(Mounted::Device(path)) => Ok(Device::new(path, &device.device_path, "rwm")),
        Some(_) => Err(format!("volume {:?} is no block device and cannot be given as one", device.name)),
        None => Err(format!("cannot find volume {:?} to pass into container {:?}", device.name, parts.member.spec.name)),
    };
    wanted.map(device).collect()
}

/// Relative mount paths are below the root, as every runtime reads them.
fn target(path: &str) -> PathBuf {
    if path.starts_with('/') { path.into() } else { format!("/{path}").into() }
}

/// Expands `$(NAME)`; an unknown name is an error here.
fn sub_path(expression: &str, lookup: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let path = expand(expression, |name| {
        let value = lookup(name);
        if value.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        value
    });
    missing.into_inner().map_or(Ok(path), |name| Err(format!("missing value for {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every attempt is described anew, from the image as it lies on the node (CVE-2019-11245 was about the second one).
    #[test]
    fn root_is_found_out_whatever_it_is_called() {
        let name = |text: &str| may_be_root(&UserRef::Name(text.into()));
        let root = Some("container has runAsNonRoot and image will run as root".to_owned());
        assert_eq!(may_be_root(&UserRef::Root), root);
        for text in ["0", "00", "+0", "0:1000"] {
            assert_eq!(name(text), root, "{text}");
        }
        assert_eq!(may_be_root(&UserRef::Id(0)).unwrap(), "container's runAsUser breaks non-root policy");
        for text in ["root", "web", "web:1000", ":1000", "-1", "4294967296", "0x0", " 0"] {
            let why = name(text).unwrap_or_else(|| panic!("{text:?} may be root"));
            assert_eq!(why, format!("container has runAsNonRoot and image has non-numeric user ({text}), cannot verify user is non-root"));
        }
        assert_eq!((may_be_root(&UserRef::Id(1000)), name("1000"), name("1000:0")), (None, None, None));
    }

    #[test]
    fn parts_of_volumes_are_inside_of_them() {
        let volume = Mounted::Path { path: "/volume".into(), read_only: false };
        let lookup = |name: &str| match name {
            "UP" => Some("..".to_owned()),
            "ROOT" => Some("/etc".to_owned()),
            _ => None,
        };
        let at = |path: Option<&str>, expression: Option<&str>| {
            let (sub_path, sub_path_expr) = (path.map(Into::into), expression.map(Into::into));
            let mount = VolumeMount { name: "v".into(), mount_path: "/v".into(), sub_path, sub_path_expr, ..VolumeMount::default() };
            volume_mount(&mount, &volume, &lookup)
        };
        for path in ["..", "../x", "a/../../x", "a/..", "/etc", "/"] {
            assert!(at(Some(path), None).is_err(), "{path}");
        }
        for expression in ["$(UP)", "a/$(UP)/$(UP)/x", "$(ROOT)", "$(NONE)", "$(UP)/$(UP)"] {
            assert!(at(None, Some(expression)).is_err(), "{expression}");
        }
        for path in ["a", "a/b", "..a", "a..b/..."] {
            assert!(at(Some(path), None).is_ok(), "{path}");
        }
    }
}
