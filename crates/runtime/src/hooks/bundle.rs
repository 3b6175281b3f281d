//! What hooks are told: the state of the container, and in a folder beside it the description from which others would make it.
//!
//! Hooks of vendors look there for the root of the container, which is visible at that path in the container's mount name space as
//! long as it is being made.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use serde_json::{Value, json};

use super::run_all;
use crate::keeper::state::{self, Files};
use crate::spec::{ContainerId, ContainerSpec, HookKind, Mount, Propagation, Source, UserRef};

/// Version of the OCI runtime specification.
const VERSION: &str = "1.2.0";

/// The state of a container as its hooks read it.
pub(crate) fn state(files: &Files, spec: &ContainerSpec, status: &str, pid: Option<i32>) -> String {
    let mut state = json!({
        "ociVersion": VERSION, "id": name(files, &spec.id), "status": status,
        "bundle": files.bundle(&spec.id), "annotations": spec.annotations,
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    state.to_string()
}

fn name(files: &Files, id: &ContainerId) -> String {
    let sandbox = files.dir().file_name().unwrap_or_default().to_string_lossy();
    format!("{sandbox}-{id}")
}

/// Leaves the description where hooks look for it.
pub(crate) fn write(files: &Files, spec: &ContainerSpec) -> io::Result<()> {
    let dir = files.bundle(&spec.id);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    fs::write(dir.join("config.json"), config(files, spec).to_string())
}

fn config(files: &Files, spec: &ContainerSpec) -> Value {
    let hooks = |kind: HookKind| -> Vec<Value> {
        let of_kind = spec.hooks.iter().filter(|hook| hook.kind == kind);
        let shown = of_kind.map(|hook| {
            let seconds = hook.timeout.map(|timeout| timeout.as_secs());
            json!({"path": hook.path, "args": hook.args, "env": hook.env, "timeout": seconds})
        });
        shown.collect()
    };
    let uid = if let UserRef::Id(uid) = spec.user.user { uid } else { 0 };
    let user = json!({"uid": uid, "gid": spec.user.group.unwrap_or(0), "additionalGids": spec.user.supplemental});
    let devices = spec.devices.iter().map(|device| json!({"path": device.container_path}));
    json!({
        "ociVersion": VERSION,
        "root": {"path": files.container(&spec.id), "readonly": spec.read_only_root},
        "process": {"args": spec.argv, "env": spec.env, "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
                    "terminal": spec.tty, "noNewPrivileges": spec.no_new_privs, "user": user},
        "mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "annotations": spec.annotations,
        "hooks": HookKind::ALL.into_iter().map(|kind| (kind.to_string(), hooks(kind).into())).collect::<serde_json::Map<_, _>>(),
        "linux": {"devices": devices.collect::<Vec<_>>(), "namespaces": [{"type": "mount"}]},
    })
}

fn mount(mount: &Mount) -> Value {
    let target = mount.target();
    match mount {
        Mount::Bind(bind) => {
            let source = match &bind.source {
                Source::Path(path) => path.clone(),
                Source::Beneath { root, path } => root.join(path),
                Source::Fd(_) | Source::Passed(_) => Default::default(),
            };
            let propagation = match bind.propagation {
                Propagation::Private => "rprivate",
                Propagation::Slave => "rslave",
                Propagation::Shared => "rshared",
            };
            let options = ["rbind", propagation, if bind.read_only { "ro" } else { "rw" }];
            json!({"destination": target, "type": "bind", "source": source, "options": options})
        }
        Mount::Tmpfs { .. } => json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}),
        Mount::Image(_) => json!({"destination": target, "type": "overlay", "source": "overlay"}),
    }
}

/// Runs the last hooks of a container that is gone, if it had any, and removes what they were told. Blocks as long as they take.
pub(crate) fn after_end(files: &Files, spec: &ContainerSpec) {
    let state = state(files, spec, "stopped", None);
    for hook in &spec.hooks {
        if let Err(error) = run_all(std::slice::from_ref(hook), HookKind::Poststop, &state) {
            tracing::warn!(container = %spec.id, "{}", super::told(&error));
        }
    }
    let _missing = fs::remove_dir_all(files.bundle(&spec.id));
}

/// The descriptions of those of these containers that have hooks, before their folders go.
pub(crate) fn hooked(files: &Files, ids: &[String]) -> Vec<ContainerSpec> {
    let ids = ids.iter().filter_map(|id| ContainerId::new(id.clone()).ok()).filter(|id| files.bundle(id).exists());
    ids.filter_map(|id| state::read_container(files, &id).ok()).collect()
}
