//! The demo image that the binary carries: something to deploy, call, look into and roll when no registry is at hand.
//!
//! `knarr.io/demo:1` and `knarr.io/demo:2` share one layer with one static program (see `demo/main.rs` of this crate) and
//! differ in the version that their web server tells, so a rolling update can be watched. The program is compiled by
//! the build script; nothing is downloaded and the running executable is not copied into the image.

use serde_json::json;

use crate::image::Platform;
use crate::unpack::Hasher;
use crate::{Image, ImageStore, ImportError};

/// The names of the images, oldest version first.
pub const NAMES: [&str; 2] = ["knarr.io/demo:1", "knarr.io/demo:2"];

/// The program, or nothing if it could not be linked statically at build time.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo"));
/// Names under `/bin` that the program answers to.
const TOOLS: [&str; 11] = ["cat", "curl", "echo", "env", "hostname", "ls", "nslookup", "serve", "sh", "sleep", "wget"];
/// 2026-01-01, so that the same program always makes the same image.
const TIME: u64 = 1_767_225_600;

/// Imports the demo images unless they are present. The first of the result is [`NAMES`]`[0]`.
pub async fn import_demo(store: &ImageStore) -> Result<Vec<Image>, ImportError> {
    let present: Vec<Image> = NAMES.iter().filter_map(|name| store.resolve(name)).collect();
    if present.len() == NAMES.len() && present.iter().all(|image| image.config.labels == labels()) {
        return Ok(present);
    }
    let archive = archive().ok_or_else(|| {
        ImportError::Content("this build of the program carries no demo image, since it was made without a static C library".into())
    })?;
    let images = store.import(archive.as_slice()).await?;
    let named = |name: &&str| images.iter().find(|image| image.names.iter().any(|known| known == *name)).cloned();
    Ok(NAMES.iter().filter_map(named).collect())
}

/// The images as `docker save` would write them; `None` if this build has no demo program.
pub fn archive() -> Option<Vec<u8>> {
    if PROGRAM.is_empty() {
        return None;
    }
    let layer = layer();
    let mut archive = Vec::new();
    let mut manifest = Vec::new();
    for name in NAMES {
        let config = config(name, &Hasher::digest(&layer)).to_string();
        let file = format!("{}.json", &Hasher::digest(config.as_bytes())["sha256:".len()..]);
        add(&mut archive, &file, b'0', 0o644, config.as_bytes(), "");
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    add(&mut archive, "layer.tar", b'0', 0o644, &layer, "");
    add(&mut archive, "manifest.json", b'0', 0o644, json!(manifest).to_string().as_bytes(), "");
    archive.extend([0; 1024]);
    Some(archive)
}

fn layer() -> Vec<u8> {
    let mut layer = Vec::new();
    for (name, mode) in [("./", 0o755), ("bin/", 0o755), ("etc/", 0o755), ("root/", 0o700), ("tmp/", 0o1777)] {
        add(&mut layer, name, b'5', mode, &[], "");
    }
    add(&mut layer, "demo", b'0', 0o755, PROGRAM, "");
    for tool in TOOLS {
        add(&mut layer, &format!("bin/{tool}"), b'2', 0o777, &[], "/demo");
    }
    add(&mut layer, "etc/passwd", b'0', 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", "");
    add(&mut layer, "etc/group", b'0', 0o644, b"root:x:0:\nnobody:x:65534:\n", "");
    layer.extend([0; 1024]);
    layer
}

fn config(name: &str, diff_id: &str) -> serde_json::Value {
    let platform = Platform::host();
    let version = name.rsplit(':').next().unwrap_or_default();
    json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/bin", format!("VERSION={version}")],
            "Cmd": ["/demo", "serve"],
            "WorkingDir": "/",
            "ExposedPorts": {"80/tcp": {}},
            "Labels": labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
}

/// Tell whether the images in the store were made of this program.
fn labels() -> std::collections::BTreeMap<String, String> {
    [("io.knarr.demo.program".to_string(), Hasher::digest(PROGRAM))].into()
}

/// Appends one member in the plain ustar form: names are short and files small here.
fn add(archive: &mut Vec<u8>, name: &str, kind: u8, mode: u32, data: &[u8], link: &str) {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let mut field = |at: usize, width: usize, value: u64| {
        header[at..at + width - 1].copy_from_slice(format!("{value:0digits$o}", digits = width - 1).as_bytes());
    };
    field(100, 8, mode.into());
    field(108, 8, 0);
    field(116, 8, 0);
    field(124, 12, data.len() as u64);
    field(136, 12, TIME);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend(header);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}
