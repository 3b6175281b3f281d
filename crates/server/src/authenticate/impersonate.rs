//! Acting as somebody else, by headers, where the caller may impersonate that user, group and extra.

use api::Status;
use http::request::Parts;

use crate::attributes::Attributes;
use crate::query::percent_decode;
use crate::server::Server;
use crate::steps::authorize;
use crate::user::{UNAUTHENTICATED, User};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request is to be served as: the caller unless headers name another.
///
/// # Errors
/// 400 for incomplete headers, 403 where the caller may not impersonate.
pub fn impersonate(server: &Server, caller: User, parts: &mut Parts) -> Result<User, Status> {
    if !parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(caller);
    }
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let mut user = User { name: text(USER), uid: text(UID), ..User::default() };
    for (header, value) in &parts.headers {
        let Ok(value) = value.to_str() else { continue };
        if header.as_str() == GROUP {
            user.groups.push(value.to_owned());
        } else if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            user.extra.entry(percent_decode(key, false)).or_default().push(value.to_owned());
        }
    }
    if user.name.is_empty() {
        return Err(Status::bad_request(format!("requested {} without impersonating a user name", shown(&user))));
    }
    check(server, &caller, &user)?;
    if user.groups.is_empty() {
        if let Some((namespace, _)) = user.account() {
            user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
    }
    if user.name == "system:anonymous" {
        if !user.in_group(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.into());
        }
    } else {
        user.mark_authenticated();
    }
    let ours: Vec<_> = parts.headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        parts.headers.remove(name);
    }
    Ok(user)
}

/// Who was asked for, in the notation of the real server.
fn shown(user: &User) -> String {
    let list = |texts: &[String]| format!("[]string{{{}}}", texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", "));
    let groups = if user.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&user.groups) };
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", extra.join(", ")) };
    format!("&user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, Extra:map[string][]string{extra}}}", user.uid)
}

fn check(server: &Server, caller: &User, wanted: &User) -> Result<(), Status> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate",
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        authorize::check(server, caller, &attributes)
    };
    match wanted.account() {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name)?,
        None => ask("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        ask("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            ask("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        ask("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    Ok(())
}
