//! Image references: `[registry/]repository[:tag][@digest]`, with the short forms that people type.
//!
//! The grammar is that of the distribution project; `nginx` means `docker.io/library/nginx:latest`.

use std::fmt;

/// A parsed and normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `registry.example.com:5000`.
    pub registry: String,
    /// Path inside the registry: `library/nginx`.
    pub path: String,
    /// Present unless only a digest was given.
    pub tag: Option<String>,
    /// `sha256:<hex>`; wins over the tag.
    pub digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("repository name must have at least one component")]
    Empty,
    /// Path longer than 255.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// Upper case letters in the path.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hexadecimal digits and nothing else.
    #[error("invalid repository name, cannot specify 64-byte hexadecimal strings")]
    LooksLikeId,
    /// The digest has an unknown algorithm or the wrong length.
    #[error("invalid checksum digest")]
    Digest,
    /// Everything else.
    #[error("invalid reference format")]
    Format,
}

impl Reference {
    /// Parses and normalises. Without tag and digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        if text.is_empty() || rest.is_empty() {
            return Err(if text.is_empty() { ReferenceError::Empty } else { ReferenceError::Format });
        }
        if digest.is_none() && text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::LooksLikeId);
        }
        let last_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last_slash..].rfind(':') {
            Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (registry, path) = split_registry(name);
        check_registry(registry)?;
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let path = if registry == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path.to_string() };
        check_path(&path)?;
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Reference { registry: registry.to_string(), path, tag: tag.map(str::to_string), digest: digest.map(str::to_string) })
    }

    /// Registry and path without tag and digest: `docker.io/library/nginx`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// What stands behind `/manifests/` in a request: the digest if there is one, else the tag.
    pub fn manifest_name(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// `repository:tag`, unless a digest was given: then the tag says nothing.
    pub fn tagged_name(&self) -> Option<String> {
        match (&self.digest, &self.tag) {
            (None, Some(tag)) => Some(format!("{}:{tag}", self.repository())),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The registry that short names mean.
pub(crate) const DOCKER_HUB: &str = "docker.io";

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (Err(address), None),
        Some((address, rest)) => (Err(address), Some(rest.strip_prefix(':').ok_or(ReferenceError::Format)?)),
        None => match registry.split_once(':') {
            Some((host, port)) => (Ok(host), Some(port)),
            None => (Ok(registry), None),
        },
    };
    let host_fits = match host {
        Err(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        Ok(host) => host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    let port_fits = port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok());
    if host_fits && port_fits { Ok(()) } else { Err(ReferenceError::Format) }
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.len() > 255 {
        return Err(ReferenceError::TooLong);
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(path.to_owned()));
    }
    if path.split('/').all(is_path_component) { Ok(()) } else { Err(ReferenceError::Format) }
}

/// Runs of lower case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(alphanumeric).all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if fits { Ok(()) } else { Err(ReferenceError::Format) }
}

/// Checks for `sha256:` and 64 lower case hexadecimal digits, the one algorithm that we verify.
pub(crate) fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(is_lower_hex) => Ok(()),
        Some(_) => Err(ReferenceError::Digest),
        None => Err(ReferenceError::Format),
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost:2.53"),
            ("a/b__c/d---e.f:V_1.0-x", "docker.io/a/b__c/d---e.f:V_1.0-x"),
            ("UPPER/a", "UPPER/a:latest"),
        ];
        for (text, normal) in cases {
            assert_eq!(Reference::parse(text).map(|r| r.to_string()).as_deref(), Ok(normal), "{text}");
        }
        for (text, normal) in [("nginx", "docker.io/library/nginx"), ("q.io/x:1", "q.io/x:1")] {
            let parsed = Reference::parse(&format!("{text}@{digest}")).expect("parses");
            assert_eq!(parsed.to_string(), format!("{normal}@{digest}"));
            assert_eq!(parsed.manifest_name(), digest);
            assert_eq!(parsed.tagged_name(), None);
        }
    }

    #[test]
    fn wrong_references_are_refused() {
        use ReferenceError::*;
        let long = "a".repeat(256);
        let id = "ab".repeat(32);
        let cases = [
            ("", Empty),
            (":tag", Format),
            ("a//b", Format),
            ("/a", Format),
            ("a/", Format),
            ("-a", Format),
            ("a..b", Format),
            ("a___b", Format),
            ("a:", Format),
            ("a:-x", Format),
            ("a b", Format),
            ("Nginx", Uppercase("library/Nginx".into())),
            ("docker.io/Foo", Uppercase("library/Foo".into())),
            ("a@sha256:abc", Digest),
            ("a@md5:abc", Format),
            ("@sha256:abc", Digest),
            ("a.b:99999/c", Format),
            ("a.b:/c:1:2", Format),
            ("a\u{e9}", Format),
            (&long, TooLong),
            (&id, LooksLikeId),
        ];
        for (text, error) in cases {
            assert_eq!(Reference::parse(text), Err(error), "{text}");
        }
    }
}
