//! The JSON documents of images: manifests, indexes and configs, OCI's and Docker's, read as far as we need them.
//!
//! All of them are hostile input. They are read from at most [`DOCUMENT_LIMIT`] bytes, unknown fields are ignored, and
//! `null` counts as absent everywhere, as Go programs write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::image::{ImageConfigView, Platform};
use crate::reference::check_digest;
use crate::unpack::Hasher;

/// Largest manifest, index or config.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Indexes inside indexes.
pub(crate) const NESTING_LIMIT: usize = 3;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A blob and what it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    #[serde(deserialize_with = "null_is_default")]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub platform: Option<DescriptorPlatform>,
    #[serde(deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DescriptorPlatform {
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    pub variant: String,
}

/// What a manifest document turned out to be.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// One image for one platform.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// An image config.
#[derive(Debug)]
pub(crate) struct Config {
    /// `sha256:` of the document: the image id.
    pub id: String,
    pub view: ImageConfigView,
    pub variant: String,
    pub diff_ids: Vec<String>,
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("invalid {what}: {error}")]
    Json { what: &'static str, error: serde_json::Error },
    #[error("invalid {what}: {reason}")]
    Form { what: &'static str, reason: String },
    #[error("unsupported media type {0:?}")]
    MediaType(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestForm {
    #[serde(default, deserialize_with = "null_is_default")]
    schema_version: u32,
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. `media_type` is what the registry or the referring descriptor said; it may be empty.
pub(crate) fn parse_manifest(bytes: &[u8], media_type: &str) -> Result<Document, DocumentError> {
    let what = "image manifest";
    let form: ManifestForm = serde_json::from_slice(bytes).map_err(|error| DocumentError::Json { what, error })?;
    let refuse = |reason: &str| DocumentError::Form { what, reason: reason.to_string() };
    let said = if form.media_type.is_empty() { media_type } else { &form.media_type };
    let known = match said {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        OCI_INDEX | DOCKER_LIST => Some(true),
        "" | "application/json" | "application/octet-stream" | "text/plain" => None,
        other => return Err(DocumentError::MediaType(other.to_string())),
    };
    if form.schema_version != 2 {
        return Err(refuse("schema version is not 2"));
    }
    // A document that could be read both ways would mean different images to different readers.
    let document = match (known, form.config, form.layers, form.manifests) {
        (_, Some(_), _, Some(_)) | (_, _, Some(_), Some(_)) => {
            return Err(refuse("both manifest and index"));
        }
        (Some(true) | None, None, None, Some(manifests)) => Document::Index(manifests),
        (Some(false) | None, Some(config), layers, None) => Document::Manifest(Manifest { config, layers: layers.unwrap_or_default() }),
        _ => return Err(refuse("neither manifest nor index")),
    };
    let descriptors: Vec<&Descriptor> = match &document {
        Document::Index(manifests) => manifests.iter().collect(),
        Document::Manifest(manifest) => manifest.layers.iter().chain([&manifest.config]).collect(),
    };
    match descriptors.iter().find(|descriptor| check_digest(&descriptor.digest).is_err()) {
        Some(descriptor) => Err(refuse(&format!("unsupported digest {:?}", descriptor.digest))),
        None => Ok(document),
    }
}

#[derive(Deserialize)]
struct ConfigForm {
    #[serde(default, deserialize_with = "null_is_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    variant: String,
    #[serde(default, deserialize_with = "null_is_default")]
    created: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: ExecutionForm,
    #[serde(default, deserialize_with = "null_is_default")]
    rootfs: RootForm,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RootForm {
    #[serde(deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ExecutionForm {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: String,
}

/// Reads an image config.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<Config, DocumentError> {
    let what = "image config";
    let form: ConfigForm = serde_json::from_slice(bytes).map_err(|error| DocumentError::Json { what, error })?;
    if let Some(wrong) = form.rootfs.diff_ids.iter().find(|diff_id| check_digest(diff_id).is_err()) {
        return Err(DocumentError::Form { what, reason: format!("unsupported digest {wrong:?}") });
    }
    let view = ImageConfigView {
        entrypoint: form.config.entrypoint,
        cmd: form.config.cmd,
        env: form.config.env,
        working_dir: form.config.working_dir,
        user: form.config.user,
        stop_signal: form.config.stop_signal,
        volumes: form.config.volumes.into_keys().collect(),
        exposed_ports: form.config.exposed_ports.into_keys().collect(),
        labels: form.config.labels,
        architecture: form.architecture,
        os: form.os,
        created: form.created,
    };
    Ok(Config { id: Hasher::digest(bytes), view, variant: form.variant, diff_ids: form.rootfs.diff_ids })
}

/// Ids of the stacks that layers form: the first is its diff id, every further one covers all below it.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(below) => Hasher::digest(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        });
    }
    chain
}

impl Platform {
    /// How well an image for the given platform runs here; lower is better, `None` not at all. Empty fields fit.
    fn distance(&self, os: &str, architecture: &str, variant: &str) -> Option<u32> {
        if !os.is_empty() && os != self.os {
            return None;
        }
        let level = |variant: &str, default: u32| match variant.trim_start_matches('v') {
            "" => default,
            digits => digits.parse().unwrap_or(u32::MAX),
        };
        match (self.architecture.as_str(), architecture) {
            (_, "") => Some(0),
            ("amd64", "amd64") if matches!(variant, "" | "v1") => Some(0),
            ("amd64", "386") => Some(100),
            ("arm64", "arm64") if matches!(variant, "" | "v8") => Some(0),
            ("arm64", "arm") if level(variant, 7) <= 8 => Some(100 + 8 - level(variant, 7)),
            ("arm", "arm") => level(&self.variant, 7).checked_sub(level(variant, 7)),
            (own, other) if own == other && !matches!(own, "amd64" | "arm64" | "arm") => Some(0),
            _ => None,
        }
    }

    /// Whether an image with this config runs here.
    pub(crate) fn accepts(&self, config: &Config) -> bool {
        self.distance(&config.view.os, &config.view.architecture, &config.variant).is_some()
    }

    /// The member of an index that fits best. The first of equals wins. Members without platform come last.
    pub(crate) fn choose<'a>(&self, members: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let distance = |member: &Descriptor| match &member.platform {
            Some(platform) => self.distance(&platform.os, &platform.architecture, &platform.variant),
            None => Some(1000),
        };
        let rated = members.iter().filter_map(|member| distance(member).map(|distance| (distance, member)));
        rated.min_by_key(|(distance, _)| *distance).map(|(_, member)| member)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(platform: &str) -> Descriptor {
        let mut parts = platform.split('/').map(str::to_string);
        let mut next = || parts.next().unwrap_or_default();
        let platform = DescriptorPlatform { os: next(), architecture: next(), variant: next() };
        Descriptor { platform: Some(platform), ..Descriptor::default() }
    }

    #[test]
    fn the_best_member_is_chosen() {
        let cases = [
            ("linux/amd64", "linux/arm64 linux/386 unknown/unknown linux/amd64/v3 linux/amd64", Some(4)),
            ("linux/amd64", "linux/arm64 linux/386", Some(1)),
            ("linux/amd64", "windows/amd64 linux/arm64", None),
            ("linux/arm64/v8", "linux/amd64 linux/arm/v6 linux/arm/v7 linux/arm64/v8", Some(3)),
            ("linux/arm64/v8", "linux/arm/v6 linux/arm/v7", Some(1)),
            ("linux/arm/v7", "linux/arm/v8 linux/arm/v6 linux/arm/v7", Some(2)),
            ("linux/riscv64", "linux/amd64 linux/riscv64", Some(1)),
        ];
        for (own, members, expected) in cases {
            let own = member(own).platform.expect("just set");
            let platform = Platform { os: own.os, architecture: own.architecture, variant: own.variant };
            let members: Vec<Descriptor> = members.split(' ').map(member).collect();
            let chosen =
                platform.choose(&members).map(|chosen| members.iter().position(|member| std::ptr::eq(member, chosen)).expect("a member"));
            assert_eq!(chosen, expected, "{platform}");
        }
    }

    #[test]
    fn documents_are_read_strictly() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let blob = format!(r#"{{"mediaType":null,"digest":"{digest}","size":1}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#);
        assert!(matches!(parse_manifest(manifest.as_bytes(), ""), Ok(Document::Manifest(_))));
        assert!(matches!(parse_manifest(manifest.as_bytes(), DOCKER_MANIFEST), Ok(Document::Manifest(_))));
        assert!(matches!(parse_manifest(index.as_bytes(), OCI_INDEX), Ok(Document::Index(_))));
        let both = format!(r#"{{"schemaVersion":2,"config":{blob},"manifests":[{blob}]}}"#);
        let short = manifest.replace(&digest, "sha256:00");
        let cases = [
            (both.as_str(), "", "both"),
            (&index, OCI_MANIFEST, "neither"),
            (&manifest, OCI_INDEX, "neither"),
            (&short, "", "unsupported digest"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema version"),
            (&manifest, "application/vnd.docker.distribution.manifest.v1+prettyjws", "unsupported media type"),
            ("[]", "", "invalid image manifest"),
            (&format!("{}1", "[".repeat(100_000)), "", "invalid image manifest"),
        ];
        for (text, media_type, part) in cases {
            let error = parse_manifest(text.as_bytes(), media_type).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn configs_may_have_nulls() {
        let config = parse_config(
            br#"{"os":"linux","config":{"Cmd":null,"Entrypoint":["/a"],"ExposedPorts":{"80/tcp":{}},"Labels":null},
            "rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .expect("parses");
        assert_eq!((config.view.entrypoint, config.view.exposed_ports), (vec!["/a".into()], vec!["80/tcp".into()]));
        assert!(parse_config(br#"{"rootfs":{"diff_ids":["sha512:00"]}}"#).is_err());
    }

    #[test]
    fn chain_ids_cover_what_is_below() {
        let ids = ["sha256:a".to_string(), "sha256:b".to_string()];
        let chain = chain_ids(&ids);
        assert_eq!(chain, ["sha256:a".to_string(), Hasher::digest(b"sha256:a sha256:b")]);
    }
}
