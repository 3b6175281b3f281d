//! The environment of a container and the expansion of `$(NAME)` in it, in commands and in arguments.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVar, FileKeySelector, Pod, Service};

use super::downward::{self, Host};
use super::env_file::{Found, Unreadable};

/// ConfigMaps and Secrets that the environment refers to, fetched before; `None` stands for one that is not there.
#[derive(Default)]
pub struct Sources {
    /// Data of ConfigMaps by name.
    pub config_maps: HashMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// Data of Secrets by name.
    pub secrets: HashMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// What files of the pod's volumes say.
    pub files: Vec<(FileKeySelector, Result<Found, Unreadable>)>,
}

/// The names of ConfigMaps and Secrets that a container's environment refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.iter().map(|one| one.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|one| one.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.iter().map(|one| one.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|one| one.name.clone()));
    }
    (config_maps, secrets)
}

/// The keys of files that a container's environment refers to.
pub fn file_references(container: &Container) -> impl Iterator<Item = &FileKeySelector> {
    container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.file_key_ref.as_ref())
}

/// The whole environment in the order in which later names win.
///
/// # Errors
/// A text for `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    host: &Host,
    services: &[(String, String)],
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut known: BTreeMap<String, String> = services.iter().cloned().collect();
    let mut order: Vec<String> = services.iter().map(|(name, _)| name.clone()).collect();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        if known.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    let namespace = super::model::namespace(pod);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        let (data, what, optional) = if let Some(from) = &source.config_map_ref {
            (sources.config_maps.get(&from.name), format!("configmap {:?} not found", from.name), from.optional)
        } else if let Some(from) = &source.secret_ref {
            (sources.secrets.get(&from.name), format!("secret {:?} not found", from.name), from.optional)
        } else {
            continue;
        };
        match data.and_then(Option::as_ref) {
            Some(data) => {
                for (key, value) in data {
                    let name = format!("{prefix}{key}");
                    if !name.contains('=') && !name.is_empty() {
                        set(&mut known, name, String::from_utf8_lossy(value).into_owned());
                    }
                }
            }
            None if optional == Some(true) => {}
            None => return Err(what),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, host, sources, namespace, variable, &known)? {
            set(&mut known, variable.name.clone(), value);
        }
    }
    Ok(order.into_iter().filter_map(|name| known.get(&name).map(|value| (name.clone(), value.clone()))).collect())
}

/// The value of one variable; `None` where an optional source is not there.
fn value(
    pod: &Pod,
    container: &Container,
    host: &Host,
    sources: &Sources,
    namespace: &str,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or(""), |name| known.get(name).cloned())));
    };
    if let Some(selector) = &from.field_ref {
        return downward::field(pod, host, selector).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return downward::resource(pod, container, host, selector).map(Some);
    }
    if let Some(from) = &from.file_key_ref {
        let found = sources.files.iter().find(|(known, _)| known == from).map(|(_, found)| found.clone());
        return match found.unwrap_or(Err(Unreadable)) {
            Ok(Found::Value(value)) => Ok(Some(value)),
            Ok(Found::Nothing(_)) if from.optional == Some(true) => Ok(None),
            Ok(Found::Nothing(file)) => Err(format!("environment variable key {:?} not found in file {file:?}", from.key)),
            Err(unreadable) => Err(unreadable.to_string()),
        };
    }
    let (data, key, optional, kind, name) = if let Some(from) = &from.config_map_key_ref {
        (sources.config_maps.get(&from.name), &from.key, from.optional, "ConfigMap", &from.name)
    } else if let Some(from) = &from.secret_key_ref {
        (sources.secrets.get(&from.name), &from.key, from.optional, "Secret", &from.name)
    } else {
        return Err(format!("the source of environment variable {} is not supported", variable.name));
    };
    let found = data.and_then(Option::as_ref);
    match (found.and_then(|data| data.get(key)), optional) {
        (Some(value), _) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        (None, Some(true)) => Ok(None),
        (None, _) if found.is_none() => Err(format!("{} {name:?} not found", kind.to_ascii_lowercase())),
        (None, _) => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
    }
}

/// Replaces `$(NAME)`; `$$` stands for a dollar and unknown names stay as they are.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Variables of services: always those of `kubernetes` in `default`, with service links all of the namespace.
pub fn service_variables(services: &[Service], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or("");
        let home = service.metadata.namespace.as_deref().unwrap_or("");
        let master = home == "default" && name == "kubernetes";
        let spec = service.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("");
        if !(master || (links && home == namespace)) || address.is_empty() || address == "None" {
            continue;
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let Some(first) = ports.first() else {
            continue;
        };
        let prefix = name.to_ascii_uppercase().replace('-', "_");
        variables.push((format!("{prefix}_SERVICE_HOST"), address.to_owned()));
        variables.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                variables
                    .push((format!("{prefix}_SERVICE_PORT_{}", port_name.to_ascii_uppercase().replace('-', "_")), port.port.to_string()));
            }
        }
        let url = |port: i32, protocol: &str| {
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            format!("{}://{host}:{port}", protocol.to_ascii_lowercase())
        };
        variables.push((format!("{prefix}_PORT"), url(first.port, first.protocol.as_deref().unwrap_or("TCP"))));
        for port in ports {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let base = format!("{prefix}_PORT_{}_{protocol}", port.port);
            variables.push((base.clone(), url(port.port, protocol)));
            variables.push((format!("{base}_PROTO"), protocol.to_ascii_lowercase()));
            variables.push((format!("{base}_PORT"), port.port.to_string()));
            variables.push((format!("{base}_ADDR"), address.to_owned()));
        }
    }
    variables
}
