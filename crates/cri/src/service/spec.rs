//! From a container's configuration in CRI's words to what our runtime shall start.

use std::path::{Path, PathBuf};

use cgroup::{HugepageLimit, Limits};
use image::{Image, ImageStore};
use runtime::{
    Bind, Capabilities, ContainerId, ContainerSpec, Device as RuntimeDevice, ImageMount, LogSpec, Mount as RuntimeMount, PidMode,
    Propagation, Rootfs, Seccomp, SupplementalGroups, User, UserRef,
};

use super::not_found;
use crate::cdi;
use crate::messages::*;
use grpc::{Code, Failure};

/// What a container is made from.
pub struct Given<'a> {
    /// Its name.
    pub id: ContainerId,
    /// Its configuration.
    pub config: &'a ContainerConfig,
    /// That of its sandbox.
    pub sandbox: &'a PodSandboxConfig,
    /// Its image.
    pub image: &'a Image,
    /// Where images are.
    pub images: &'a ImageStore,
    /// Where it writes.
    pub writable: &'a Path,
    /// Files of the pod for `/etc`.
    pub etc: &'a Path,
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, text)
}

/// What the runtime shall start.
///
/// # Errors
/// The configuration contradicts itself, the image or what is supported.
pub fn container(given: &Given) -> Result<ContainerSpec, Failure> {
    let config = given.config;
    let linux = config.linux.clone().unwrap_or_default();
    let known = linux.security_context.is_some();
    let security = linux.security_context.unwrap_or_default();
    let resources = linux.resources.unwrap_or_default();
    let rootfs = Rootfs::Overlay { layers: layers(given.images, given.image), writable: given.writable.to_owned() };
    let mut spec = ContainerSpec::new(given.id.clone(), rootfs, argv(config, given.image)?);
    spec.read_only_root = security.readonly_rootfs;
    spec.env = environment(config, given.image)?;
    spec.cwd = if config.working_dir.is_empty() { given.image.config.working_dir.clone() } else { config.working_dir.clone() };
    spec.user = user(&security, given.image)?;
    spec.privileged = security.privileged;
    let caps = security.capabilities.clone().unwrap_or_default();
    spec.capabilities = Capabilities::from_pod(&caps.add_capabilities, &caps.drop_capabilities, security.privileged);
    if !caps.add_ambient_capabilities.is_empty() {
        let ambient = Capabilities::from_pod(&caps.add_ambient_capabilities, &["ALL".to_owned()], false).permitted;
        spec.capabilities.inheritable.clone_from(&ambient);
        spec.capabilities.ambient = ambient;
    }
    spec.no_new_privs = security.no_new_privs;
    spec.seccomp = seccomp(&security)?;
    if known {
        spec.masked_paths = if security.privileged { Vec::new() } else { security.masked_paths.clone() };
        spec.read_only_paths = if security.privileged { Vec::new() } else { security.readonly_paths.clone() };
    }
    spec.mounts = mounts(given)?;
    spec.devices = config.devices.iter().map(device).collect();
    spec.pid = pid(security.namespace_options.as_ref())?;
    spec.tty = config.tty;
    spec.stdin = config.stdin;
    spec.stdin_once = config.stdin_once;
    spec.limits = limits(&resources);
    spec.oom_score_adj = i32::try_from(resources.oom_score_adj).ok();
    let log = Path::new(&given.sandbox.log_directory).join(&config.log_path);
    spec.log = (!config.log_path.is_empty()).then(|| LogSpec { path: log, max_size: 0, max_files: 0 });
    spec.stop_signal = signal_number(config.stop_signal).or_else(|| runtime::signals::parse(&given.image.config.stop_signal));
    let named = config.cdi_devices.iter().map(|device| device.name.clone());
    let devices: Vec<String> = named.chain(cdi::annotated(&config.annotations)).collect();
    cdi::inject(&mut spec, &devices).map_err(|error| Failure::internal(&error))?;
    Ok(spec)
}

/// Layer directories, lowest first.
fn layers(images: &ImageStore, image: &Image) -> Vec<PathBuf> {
    let mut layers = images.layers(image);
    layers.reverse();
    layers
}

/// `command` replaces the entrypoint and drops the image's arguments; `args` replaces the arguments.
fn argv(config: &ContainerConfig, image: &Image) -> Result<Vec<String>, Failure> {
    let image = &image.config;
    let argv: Vec<String> = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => config.command.iter().chain(&config.args).cloned().collect(),
        (true, false) => image.entrypoint.iter().chain(&config.args).cloned().collect(),
        (true, true) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if argv.is_empty() { Err(invalid("no command specified")) } else { Ok(argv) }
}

fn environment(config: &ContainerConfig, image: &Image) -> Result<Vec<String>, Failure> {
    let from_image = image.config.env.iter().filter(|line| {
        let name = line.split('=').next().unwrap_or("");
        !config.envs.iter().any(|variable| variable.key == name)
    });
    let mut lines: Vec<String> = from_image.cloned().collect();
    for variable in &config.envs {
        let value = std::str::from_utf8(&variable.value).map_err(|_| invalid(format!("the value of {} is no text", variable.key)))?;
        lines.push(format!("{}={value}", variable.key));
    }
    Ok(lines)
}

fn user(security: &LinuxContainerSecurityContext, image: &Image) -> Result<User, Failure> {
    let id = |value: i64| u32::try_from(value).map_err(|_| invalid(format!("user or group {value} is out of range")));
    if security.run_as_group.is_some() && security.run_as_user.is_none() && security.run_as_username.is_empty() {
        return Err(invalid("run_as_group is there without run_as_user or run_as_username"));
    }
    let user = match (&security.run_as_user, security.run_as_username.as_str(), image.config.user.as_str()) {
        (Some(uid), _, _) => UserRef::Id(id(uid.value)?),
        (None, "", "") => UserRef::Root,
        (None, "", name) | (None, name, _) => UserRef::Name(name.to_owned()),
    };
    Ok(User {
        user,
        group: security.run_as_group.as_ref().map(|gid| id(gid.value)).transpose()?,
        supplemental: security.supplemental_groups.iter().map(|gid| id(*gid)).collect::<Result<_, _>>()?,
        policy: if security.supplemental_groups_policy == groups_policy::STRICT {
            SupplementalGroups::Strict
        } else {
            SupplementalGroups::Merge
        },
    })
}

fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Seccomp, Failure> {
    if security.apparmor.as_ref().is_some_and(|wanted| wanted.profile_type == profile::LOCALHOST) {
        return Err(Failure::new(Code::Unimplemented, "AppArmor profiles are not supported"));
    }
    match &security.seccomp {
        _ if security.privileged => Ok(Seccomp::Unconfined),
        None => Ok(Seccomp::Unconfined),
        Some(wanted) if wanted.profile_type == profile::RUNTIME_DEFAULT => Ok(Seccomp::RuntimeDefault),
        Some(wanted) if wanted.profile_type == profile::LOCALHOST => {
            let file = wanted.localhost_ref.strip_prefix("localhost/").unwrap_or(&wanted.localhost_ref);
            let text = std::fs::read_to_string(file).map_err(|error| invalid(format!("seccomp profile {file:?}: {error}")))?;
            Ok(Seccomp::Custom(text))
        }
        Some(_) => Ok(Seccomp::Unconfined),
    }
}

fn pid(spaces: Option<&NamespaceOption>) -> Result<PidMode, Failure> {
    Ok(match spaces {
        Some(spaces) if spaces.pid == namespace::NODE => PidMode::Host,
        Some(spaces) if spaces.pid == namespace::TARGET => PidMode::Target(super::container_id(&spaces.target_id)?),
        Some(spaces) if spaces.pid == namespace::POD => PidMode::Pod,
        _ => PidMode::Container,
    })
}

fn mounts(given: &Given) -> Result<Vec<RuntimeMount>, Failure> {
    let of_pod = given.sandbox.linux.clone().unwrap_or_default().security_context.unwrap_or_default().namespace_options.unwrap_or_default();
    let users = of_pod.userns_options.filter(|options| options.mode == namespace::POD).unwrap_or_default();
    let mut mounts = Vec::new();
    for mount in &given.config.mounts {
        mounts.push(match &mount.image {
            Some(wanted) => image_mount(given, mount, wanted)?,
            None => bind(mount, &users)?,
        });
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        let target = Path::new("/etc").join(file);
        if !given.config.mounts.iter().any(|mount| Path::new(&mount.container_path) == target) {
            let id_mapped = !users.uids.is_empty();
            mounts.push(RuntimeMount::Bind(Bind { id_mapped, ..Bind::new(given.etc.join(file), target) }));
        }
    }
    Ok(mounts)
}

fn image_mount(given: &Given, mount: &Mount, wanted: &ImageSpec) -> Result<RuntimeMount, Failure> {
    let image = given.images.resolve(&wanted.image).ok_or_else(|| not_found("image", &wanted.image))?;
    let target = target(&mount.container_path);
    Ok(RuntimeMount::Image(ImageMount { layers: layers(given.images, &image), target, sub_path: mount.image_sub_path.clone().into() }))
}

/// Owners are shifted as the pod's users are, whether a caller asks for it or leaves it to the runtime; not otherwise.
fn bind(mount: &Mount, users: &UserNamespace) -> Result<RuntimeMount, Failure> {
    let given = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if given && (mount.uid_mappings != users.uids || mount.gid_mappings != users.gids) {
        return Err(invalid("owners of mounts can be shifted only as the users of the pod are"));
    }
    if mount.recursive_read_only && (!mount.readonly || mount.propagation != propagation::PRIVATE) {
        return Err(invalid(format!("{}: recursive_read_only goes with readonly and private propagation only", mount.container_path)));
    }
    if !Path::new(&mount.host_path).exists() {
        let failed = |error| invalid(format!("failed to mkdir {:?}: {error}", mount.host_path));
        std::fs::create_dir_all(&mount.host_path).map_err(failed)?;
    }
    let mut bind = Bind::new(&mount.host_path, target(&mount.container_path));
    bind.read_only = mount.readonly;
    bind.recursive_read_only = mount.recursive_read_only;
    bind.propagation = match mount.propagation {
        propagation::HOST_TO_CONTAINER => Propagation::Slave,
        propagation::BIDIRECTIONAL => Propagation::Shared,
        _ => Propagation::Private,
    };
    bind.id_mapped = !users.uids.is_empty();
    Ok(RuntimeMount::Bind(bind))
}

/// Relative mount paths are below the root, as every runtime reads them.
fn target(path: &str) -> PathBuf {
    if path.starts_with('/') { path.into() } else { format!("/{path}").into() }
}

fn device(device: &Device) -> RuntimeDevice {
    RuntimeDevice::new(&device.host_path, &device.container_path, &device.permissions)
}

/// Limits of a container's cgroup; zero is no word about one.
pub fn limits(resources: &LinuxContainerResources) -> Limits {
    let signed = |value: i64| Some(value).filter(|value| *value != 0);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    Limits {
        cpu_shares: unsigned(resources.cpu_shares),
        cpu_quota: signed(resources.cpu_quota),
        cpu_period: unsigned(resources.cpu_period),
        memory_limit: signed(resources.memory_limit_in_bytes),
        swap_limit: signed(resources.memory_swap_limit_in_bytes),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        hugepages: resources
            .hugepage_limits
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: resources.unified.iter().map(|(file, value)| (file.clone(), value.clone())).collect(),
        ..Limits::default()
    }
}

/// Takes over what an update says.
pub fn merge(known: &mut LinuxContainerResources, update: LinuxContainerResources) {
    let numbers = [
        (&mut known.cpu_period, update.cpu_period),
        (&mut known.cpu_quota, update.cpu_quota),
        (&mut known.cpu_shares, update.cpu_shares),
        (&mut known.memory_limit_in_bytes, update.memory_limit_in_bytes),
        (&mut known.oom_score_adj, update.oom_score_adj),
        (&mut known.memory_swap_limit_in_bytes, update.memory_swap_limit_in_bytes),
    ];
    for (place, value) in numbers.into_iter().filter(|(_, value)| *value != 0) {
        *place = value;
    }
    for (place, value) in [(&mut known.cpuset_cpus, update.cpuset_cpus), (&mut known.cpuset_mems, update.cpuset_mems)] {
        if !value.is_empty() {
            *place = value;
        }
    }
    if !update.hugepage_limits.is_empty() {
        known.hugepage_limits = update.hugepage_limits;
    }
    known.unified.extend(update.unified);
}
