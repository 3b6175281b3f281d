//! What the tests of this folder share: images made on the spot, Debian's registry, and a registry that misbehaves.
#![allow(dead_code, reason = "every test program uses a part of it")]

pub mod stand;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use image::{ImageConfig, ImageStore, Registries};

/// `sha256:<hex>`.
pub fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer from names and texts; a name that ends in a slash is a directory.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        let directory = name.ends_with('/');
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// A layer with one file.
pub fn layer_of_bytes(name: &str, bytes: &[u8]) -> Vec<u8> {
    archive_with(&[(name, bytes)])
}

/// Bytes that no compression makes smaller.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// The config of an image with these (uncompressed) layers.
pub fn config(layers: &[Vec<u8>], execution: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = serde_json::json!({
        "architecture": image::Platform::host().architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// What `docker save` writes: config and layers first, the manifest last.
pub fn docker_archive(images: &[(&[&str], &[Vec<u8>])]) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut manifest = Vec::new();
    for (names, layers) in images {
        let config = config(layers, serde_json::json!({"Cmd": ["/run"], "Env": ["A=b"], "Labels": {"n": names[0]}}));
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let layer_names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", &digest(layer)[7..])).collect();
        manifest.push(serde_json::json!({"Config": config_name, "RepoTags": names, "Layers": layer_names}));
        files.push((config_name, config));
        files.extend(layer_names.into_iter().zip(layers.iter().cloned()));
    }
    files.push(("manifest.json".into(), serde_json::Value::from(manifest).to_string().into_bytes()));
    archive(&files)
}

/// A tar of an OCI layout with one image.
pub fn oci_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers, serde_json::json!({}));
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let manifest = manifest(&config, &blobs);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&manifest), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1"},
    }]});
    let mut files = vec![
        ("oci-layout".to_string(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_string(), index.to_string().into_bytes()),
    ];
    for blob in blobs.into_iter().chain([config, manifest]) {
        files.push((format!("blobs/sha256/{}", &digest(&blob)[7..]), blob));
    }
    archive(&files)
}

/// An OCI manifest over compressed layers.
pub fn manifest(config: &[u8], blobs: &[Vec<u8>]) -> Vec<u8> {
    let descriptor =
        |media_type: &str, blob: &[u8]| serde_json::json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()});
    let layers: Vec<_> = blobs.iter().map(|blob| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob)).collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// An archive of these files.
pub fn archive_with(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files: Vec<(String, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
    archive(&files)
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// A store below `directory` that sees registries by `registries.yaml`.
pub fn open(directory: &Path, registries: &str) -> ImageStore {
    let registries = Registries::parse(registries).expect("registries parse");
    ImageStore::open(ImageConfig { registries, ..ImageConfig::new(directory) }).expect("the store opens")
}

/// The text of a file as a container would see it: the topmost layer that has it.
pub fn text(layers: &[PathBuf], name: &str) -> Option<String> {
    layers.iter().find_map(|layer| std::fs::read_to_string(layer.join(name)).ok())
}

/// A port for a server that has to be told one. It is none that the system gives to connections on their way out, so
/// that nobody takes it between this look and the start of the server.
pub fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 5000;
    (0..5000)
        .map(|_| 22000 + (first + TRIED.fetch_add(1, Ordering::Relaxed)) % 5000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// User and password of a private registry.
pub const CREDENTIAL: (&str, &str) = ("reader", "quiet");
/// The password as the registry's file has it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuRyScXL0CLh8W.S/3xMgYpB5eRJlbHpC";

/// Debian's registry on a free port; ended with the value.
pub struct DebianRegistry {
    child: Child,
    pub address: SocketAddr,
    credential: Option<(&'static str, &'static str)>,
    _directory: tempfile::TempDir,
}

impl DebianRegistry {
    pub fn start() -> DebianRegistry {
        DebianRegistry::start_with("", None)
    }

    /// One that wants [`CREDENTIAL`].
    pub fn start_private() -> DebianRegistry {
        DebianRegistry::start_with("auth: {htpasswd: {realm: private, path: HTPASSWD}}\n", Some(CREDENTIAL))
    }

    fn start_with(more: &str, credential: Option<(&'static str, &'static str)>) -> DebianRegistry {
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{}",
            directory.path().display(),
            more.replace("HTPASSWD", &directory.path().join("htpasswd").to_string_lossy()),
        );
        std::fs::write(directory.path().join("htpasswd"), format!("{}:{HASH}\n", CREDENTIAL.0)).expect("writes");
        std::fs::write(&config, text).expect("writes");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = DebianRegistry { child, address, credential, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::yield_now();
        }
        registry
    }

    /// Fills in one image of a docker-archive with skopeo.
    pub fn push(&self, archive: &[u8], name: &str, target: &str) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("archive.tar");
        std::fs::write(&file, archive).expect("writes");
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "-q", "--dest-tls-verify=false"])
            .args(self.credential.map(|(user, password)| format!("--dest-creds={user}:{password}")))
            .arg(format!("docker-archive:{}:{name}", file.display()))
            .arg(format!("docker://{}/{target}", self.address))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
