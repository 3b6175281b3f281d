//! Where upstream keeps what in etcd.

use crate::Key;
use crate::key::Kinds;

/// Everything is under this prefix.
pub(super) const ROOT: &str = "/registry/";

/// Splits a key of etcd into the prefix of its kind and the rest.
///
/// A kind is one segment behind the root (`/registry/pods/`), but two where the first one is the group of
/// a custom resource, which has a dot in it, and for the two kinds under `services`. Keys that are not
/// objects, such as kube-apiserver's note about compaction, have nothing behind their first segment.
pub(super) fn split(key: &[u8], kinds: &mut Kinds) -> Option<Key> {
    let key = std::str::from_utf8(key).ok()?;
    let path = key.strip_prefix(ROOT)?;
    let (first, behind) = path.split_once('/')?;
    let mut kind = ROOT.len() + first.len() + 1;
    if first.contains('.') || first == "services" {
        kind += behind.find('/')? + 1;
    }
    let (kind, rest) = key.split_at(kind);
    (!rest.is_empty()).then(|| kinds.get(kind).key(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_as_long_as_upstream_makes_them() {
        for (key, expected) in [
            ("/registry/pods/default/web-1", Some(("/registry/pods/", "default/web-1"))),
            ("/registry/minions/node-1", Some(("/registry/minions/", "node-1"))),
            ("/registry/services/specs/default/web", Some(("/registry/services/specs/", "default/web"))),
            ("/registry/services/endpoints/default/web", Some(("/registry/services/endpoints/", "default/web"))),
            ("/registry/ranges/serviceips", Some(("/registry/ranges/", "serviceips"))),
            ("/registry/example.com/things/a/b", Some(("/registry/example.com/things/", "a/b"))),
            ("/registry/apiregistration.k8s.io/apiservices/v1.", Some(("/registry/apiregistration.k8s.io/apiservices/", "v1."))),
            ("/registry/health", None),
            ("/registry/example.com/x", None),
            ("/registry/pods/", None),
            ("compact_rev_key", None),
        ] {
            let split = split(key.as_bytes(), &mut Kinds::default());
            let split = split.as_ref().map(|key| (key.kind.as_str(), &*key.rest));
            assert_eq!(split, expected, "{key}");
        }
    }
}
