//! Archives into the store, and the life of images there: names, pins, holds, garbage collection, restarts.

mod support;

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use image::{GcPolicy, ImportError, OpenError, RemoveError};
use support::{archive_with, digest, docker_archive, gzip, layer, oci_archive, open, text};

fn everything() -> GcPolicy {
    GcPolicy {
        bytes_to_free: u64::MAX,
        min_age: Duration::ZERO,
        max_unused_age: None,
        in_use: HashSet::new(),
        now: SystemTime::now() + Duration::from_secs(3600),
    }
}

fn layer_directories(store: &image::ImageStore) -> usize {
    fs::read_dir(store.dir().join("layers")).expect("layers").count()
}

#[tokio::test]
async fn docker_archives_are_imported() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let base = layer(&[("etc/", ""), ("etc/who", "base")]);
    let top = layer(&[("etc/", ""), ("etc/who", "top")]);
    let archive = docker_archive(&[
        (&["registry.k8s.io/e2e/a:1", "registry.k8s.io/e2e/a:2"], &[base.clone(), top.clone()]),
        (&["b"], std::slice::from_ref(&base)),
    ]);
    for bytes in [archive.clone(), gzip(&archive), zstd::encode_all(archive.as_slice(), 1).expect("compresses")] {
        let images = store.import(bytes.as_slice()).await.expect("imports");
        assert_eq!(images.len(), 2);
    }
    let image = store.resolve("registry.k8s.io/e2e/a:2").expect("the second name works");
    assert_eq!(image.names, ["registry.k8s.io/e2e/a:1", "registry.k8s.io/e2e/a:2"]);
    assert!(image.pinned && image.imported && image.digests.is_empty());
    assert_eq!(image.image_id_for("registry.k8s.io/e2e/a:2"), image.id);
    assert_eq!(
        (image.config.cmd.as_slice(), image.config.env.as_slice()),
        (["/run".to_string()].as_slice(), ["A=b".to_string()].as_slice())
    );
    assert_eq!(image.size, 7);
    let layers = store.layers(&image);
    assert_eq!((layers.len(), text(&layers, "etc/who").as_deref()), (2, Some("top")));
    let b = store.resolve("docker.io/library/b:latest").expect("short names are normalised");
    assert_eq!(store.layers(&b), layers[1..], "the base is shared");
    assert_eq!(layer_directories(&store), 2);
    assert_eq!(store.usage().bytes, 7);
    assert_eq!(fs::read_dir(store.dir().join("ingest")).expect("ingest").count(), 0, "nothing is left over");
}

#[tokio::test]
async fn oci_layouts_are_imported() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let archive = oci_archive("docker.io/team/app:1", &[layer(&[("a", "1")])]);
    let image = store.import(archive.as_slice()).await.expect("imports").remove(0);
    assert_eq!(image.names, ["docker.io/team/app:1"]);
    let by_digest = image.image_id_for("team/app:1");
    assert!(by_digest.starts_with("docker.io/team/app@sha256:"), "{by_digest}");
    assert_eq!(store.resolve(&by_digest), Some(image.clone()));
    assert_eq!(store.resolve(&image.id), Some(image.clone()));
    assert_eq!(text(&store.layers(&image), "a").as_deref(), Some("1"));
}

#[tokio::test]
async fn wrong_archives_leave_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let good = layer(&[("a", "1")]);
    let id = &digest(&good)[7..];
    let config = support::config(std::slice::from_ref(&good), serde_json::json!({}));
    let manifest = |names: &str| format!(r#"[{{"Config":"c.json","RepoTags":[{names}],"Layers":["l.tar"]}}]"#).into_bytes();
    let with = |names: &str, layer: &[u8]| archive_with(&[("c.json", &config), ("l.tar", layer), ("manifest.json", &manifest(names))]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"no archive at all".to_vec(), "damaged"),
        (Vec::new(), "neither"),
        (archive_with(&[("readme", b"x")]), "neither"),
        (archive_with(&[("manifest.json", b"{")]), "manifest.json is invalid"),
        (archive_with(&[("manifest.json", &manifest(""))]), "c.json is missing"),
        (with(r#""Bad Name""#, &good), "invalid name"),
        (with(r#""a:1""#, &layer(&[("a", "2")])), "wrong diff id"),
        (with(r#""a:1""#, b"rubbish"), "failed to extract layer"),
        (archive_with(&[("manifest.json", br#"[{"Config":"../c","Layers":[]}]"#)]), "impossible member"),
    ];
    for (archive, part) in cases {
        let error = store.import(archive.as_slice()).await.expect_err(part).to_string();
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    let other = String::from_utf8(config.clone()).expect("text").replace("linux", "plan9");
    let foreign = archive_with(&[("c.json", other.as_bytes()), ("l.tar", &good), ("manifest.json", &manifest(""))]);
    assert!(matches!(store.import(foreign.as_slice()).await, Err(ImportError::Platform(_))));
    assert!(store.list().is_empty(), "{id}");
    assert_eq!(fs::read_dir(store.dir().join("ingest")).expect("ingest").count(), 0);
    store.collect_garbage(everything()).await;
    assert_eq!(layer_directories(&store), 0);
}

/// What describes an image is small, leads to one soon, and its layers are counted.
#[tokio::test]
async fn archives_without_measure_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", &digest(bytes)[7..]), bytes.to_vec());
    let index = |kind: &str, of: &[u8]| {
        let member =
            serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": digest(of), "size": of.len()});
        serde_json::json!({"schemaVersion": 2, "manifests": [member]}).to_string().into_bytes()
    };
    let config = support::config(&[], serde_json::json!({}));
    let manifest = support::manifest(&config, &[]);
    let mut blobs = vec![blob(&config), blob(&manifest)];
    let mut inner = index("manifest", &manifest);
    for _ in 0..3 {
        blobs.push(blob(&inner));
        inner = index("index", &inner);
    }
    let mut deep = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()), ("index.json".to_owned(), inner)];
    deep.append(&mut blobs);
    let names: Vec<String> = (0..=20_000).map(|number| number.to_string()).collect();
    let layers = vec![r#""l.tar""#; 501].join(",");
    let ids = vec![format!(r#""{}""#, digest(b"")); 501].join(",");
    let config = String::from_utf8(config).expect("text").replace(r#""diff_ids":[]"#, &format!(r#""diff_ids":[{ids}]"#));
    let many = format!(r#"[{{"Config":"c.json","RepoTags":["a:1"],"Layers":[{layers}]}}]"#);
    let large = vec![b' '; (4 << 20) + 1];
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let cases = [
        (deep, "indexes are nested too deeply"),
        (vec![file("manifest.json", &large)], "manifest.json is too large"),
        (names.into_iter().map(|name| (name, Vec::new())).collect(), "it has too many members"),
        (vec![file("c.json", config.as_bytes()), file("l.tar", b""), file("manifest.json", many.as_bytes())], "has too many layers"),
    ];
    for (files, part) in cases {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let error = store.import(archive_with(&files).as_slice()).await.expect_err(part).to_string();
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[tokio::test]
async fn imported_pinned_and_held_images_outlive_collection() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let image = |name: &'static str, content: &str| docker_archive(&[(&[name], &[layer(&[("f", content)])])]);
    for (name, content) in [("a:1", "a"), ("b:1", "bb"), ("c:1", "ccc")] {
        store.import(image(name, content).as_slice()).await.expect("imports");
    }
    assert!(store.collect_garbage(everything()).await.removed.is_empty());
    for name in ["a:1", "b:1"] {
        assert!(store.set_pinned(&store.resolve(name).expect(name).id, false).await);
    }
    let hold = store.hold(&store.resolve("a:1").expect("a").id).expect("it is here");
    assert!(matches!(store.remove("a:1").await, Err(RemoveError::InUse(_))));
    let report = store.collect_garbage(everything()).await;
    assert_eq!((report.removed.len(), report.freed), (1, 2));
    assert!(store.resolve("b:1").is_none() && store.resolve("a:1").is_some());
    drop(hold);
    assert_eq!(store.collect_garbage(everything()).await.removed.len(), 1);
    assert_eq!(layer_directories(&store), 1);
    // A new import takes the name; what lost it is nobody's any more.
    store.import(image("c:1", "newer").as_slice()).await.expect("imports");
    assert_eq!(store.list().len(), 2);
    assert_eq!(store.collect_garbage(everything()).await.removed.len(), 1);
    assert_eq!(text(&store.layers(&store.resolve("c:1").expect("c")), "f").as_deref(), Some("newer"));
}

#[tokio::test]
async fn names_are_added_and_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let archive = docker_archive(&[(&["a:1"], &[layer(&[("f", "x")])])]);
    let id = store.import(archive.as_slice()).await.expect("imports").remove(0).id;
    let tagged = store.tag("a:1", "registry.example.com/b").await.expect("tags");
    assert_eq!(tagged.names, ["docker.io/library/a:1", "registry.example.com/b:latest"]);
    assert!(store.tag("a:1", "No Name").await.is_err() && store.tag("missing", "b").await.is_err());
    store.remove("a:1").await.expect("removes the name");
    assert!(store.resolve("a:1").is_none() && store.resolve(&id).is_some());
    assert!(matches!(store.remove("a:1").await, Err(RemoveError::NotFound(_))));
    store.remove(&id[7..20]).await.expect("a short id will do");
    assert!(store.list().is_empty());
    assert_eq!(layer_directories(&store), 0);
}

#[tokio::test]
async fn a_store_survives_restarts_and_rubbish() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = {
        let store = open(directory.path(), "");
        let error = image::ImageStore::open(image::ImageConfig::new(directory.path())).err().expect("locked");
        assert!(matches!(error, OpenError::Locked(_)), "{error}");
        let archive = docker_archive(&[(&["a:1"], &[layer(&[("f", "x")])]), (&["b:1"], &[layer(&[("g", "y")])])]);
        store.import(archive.as_slice()).await.expect("imports").remove(0)
    };
    let layers = directory.path().join("images/layers");
    // Set-user-id programs of images must be out of reach of the machine's users.
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(directory.path().join("images")).expect("stat").permissions());
    assert_eq!(mode & 0o777, 0o700);
    for rubbish in [".tmp-1", ".gone-2", "0123456789abcdef"] {
        fs::create_dir_all(layers.join(rubbish).join("d")).expect("rubbish");
    }
    fs::write(directory.path().join("images/ingest/spool-3"), "x").expect("rubbish");
    let lost = {
        let store = open(directory.path(), "");
        assert_eq!(store.resolve(&image.id).expect("still here").names, image.names);
        assert_eq!(layer_directories(&store), 2);
        assert_eq!(fs::read_dir(store.dir().join("ingest")).expect("ingest").count(), 0);
        store.layers(&store.resolve("b:1").expect("b")).remove(0)
    };
    // Where a layer is lost, its image must not pretend to be there.
    fs::remove_dir_all(lost).expect("removes");
    let store = open(directory.path(), "");
    assert_eq!((store.list().len(), store.resolve("b:1")), (1, None));
    drop(store);
    fs::write(directory.path().join("images/index"), "knarr-images 7 2.0.0 x\n{}").expect("writes");
    let error = image::ImageStore::open(image::ImageConfig::new(directory.path())).err().expect("newer");
    assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
}

/// The directories are what overlayfs wants: removals, opaque directories and shared parents show in a real mount.
#[tokio::test]
async fn layers_mount_as_overlay() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let mut base = tar::Builder::new(Vec::new());
    for (name, mode) in [("srv/", 0o1777), ("srv/data/", 0o750), ("etc/", 0o755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        base.append_data(&mut header, name, &[][..]).expect("in memory");
    }
    for name in ["srv/data/old", "etc/gone", "etc/kept"] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(1);
        base.append_data(&mut header, name, &b"x"[..]).expect("in memory");
    }
    let base = base.into_inner().expect("in memory");
    // No entry for srv and etc: they must keep the modes of the base.
    let middle = layer(&[("srv/data/.wh..wh..opq", ""), ("srv/data/new", "n"), ("etc/.wh.gone", "")]);
    let archive = docker_archive(&[(&["a:1"], &[base.clone(), middle.clone(), base.clone(), middle])]);
    let image = store.import(archive.as_slice()).await.expect("imports").remove(0);
    let layers = store.layers(&image);
    let mount = tempfile::tempdir().expect("a mount point");
    let lower: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let target = mount.path().to_str().expect("text");
    run("mount", &["-t", "overlay", "overlay", "-o", &format!("ro,lowerdir={}", lower.join(":")), target]);
    let names = |name: &str| {
        let entries = fs::read_dir(mount.path().join(name)).expect(name);
        let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |name: &str| fs::metadata(mount.path().join(name)).expect(name).permissions().mode() & 0o7777;
    let seen = (names("srv/data"), names("etc"), mode("srv"), mode("srv/data"));
    run("umount", &[target]);
    assert_eq!(seen, (vec!["new".to_string()], vec!["kept".to_string()], 0o1777, 0o750));
}

/// A file system of its own for one test; unmounted with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> SmallDisk {
        let disk = SmallDisk(tempfile::tempdir().expect("a directory"));
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "small"])
            .arg(disk.0.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success());
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_can_be_emptied() {
    let disk = SmallDisk::mount("size=2m");
    let store = open(disk.0.path(), "");
    let directory = tempfile::tempdir().expect("a directory");
    let image = |name: &'static str, size: usize| {
        let path = directory.path().join(name);
        let layer = support::layer_of_bytes(name, &support::noise(size));
        fs::write(&path, docker_archive(&[(&[name], &[layer])])).expect("writes");
        path
    };
    store.import_file(&image("small", 1 << 20)).await.expect("fits");
    let error = store.import_file(&image("large", 3 << 20)).await.expect_err("does not fit").to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(layer_directories(&store), 1, "nothing of it stays");
    // Not one more page: the index cannot be written before something is removed.
    let filler = disk.0.path().join("filler");
    let mut file = fs::File::create(&filler).expect("creates");
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
    assert!(store.tag("small", "other").await.is_err());
    store.remove("small").await.expect("makes room");
    assert_eq!((layer_directories(&store), store.list().len()), (0, 0));
}

#[tokio::test]
async fn a_read_only_store_is_refused_with_one_line() {
    let disk = SmallDisk::mount("ro,size=1m");
    let error = image::ImageStore::open(image::ImageConfig::new(disk.0.path())).err().expect("read-only");
    assert!(error.to_string().starts_with("cannot open image store") && error.to_string().contains("Read-only"), "{error}");
}
