//! Every way in which a layer is known to have broken out of its root, and every form that honest layers have.

use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::*;

/// A tar archive from plain words, headers written by hand so that nothing is cleaned on the way.
struct Archive(Vec<u8>);

struct Member<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    data: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    device: (u32, u32),
    pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Member<'_> {
    fn default() -> Self {
        Member { kind: b'0', name: b"", link: b"", data: b"", mode: 0o644, owner: (0, 0), mtime: 1_600_000_000, device: (0, 0), pax: &[] }
    }
}

impl Archive {
    fn new() -> Archive {
        Archive(Vec::new())
    }

    fn add(mut self, member: Member<'_>) -> Archive {
        if !member.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in member.pax {
                let body = 3 + key.len() + value.len();
                let mut length = body + 1;
                while length != body + length.to_string().len() {
                    length = body + length.to_string().len();
                }
                records.extend(format!("{length} {key}=").bytes());
                records.extend(*value);
                records.push(b'\n');
            }
            self = self.raw(b'x', b"pax", &records, &Member::default());
        }
        self.raw(member.kind, member.name, member.data, &member)
    }

    fn raw(mut self, kind: u8, name: &[u8], data: &[u8], member: &Member<'_>) -> Archive {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name);
        let mut field = |at: usize, width: usize, value: u64| {
            let text = format!("{value:0width$o}\0", width = width - 1);
            header[at..at + width].copy_from_slice(text.as_bytes());
        };
        field(100, 8, member.mode.into());
        field(108, 8, member.owner.0.into());
        field(116, 8, member.owner.1.into());
        field(124, 12, data.len() as u64);
        field(136, 12, member.mtime);
        field(329, 8, member.device.0.into());
        field(337, 8, member.device.1.into());
        header[156] = kind;
        header[157..157 + member.link.len()].copy_from_slice(member.link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Archive {
        self.add(Member { name: name.as_bytes(), data: data.as_bytes(), ..Member::default() })
    }

    fn directory(self, name: &str) -> Archive {
        self.add(Member { kind: b'5', name: name.as_bytes(), mode: 0o755, ..Member::default() })
    }

    fn symlink(self, name: &str, link: &str) -> Archive {
        self.add(Member { kind: b'2', name: name.as_bytes(), link: link.as_bytes(), ..Member::default() })
    }

    fn hard_link(self, name: &str, link: &str) -> Archive {
        self.add(Member { kind: b'1', name: name.as_bytes(), link: link.as_bytes(), ..Member::default() })
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A root inside a directory that holds a file which no layer may see or touch.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().expect("a directory"));
        fs::create_dir(place.root()).expect("a root");
        fs::write(place.secret(), "secret").expect("a secret");
        place
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    fn secret(&self) -> std::path::PathBuf {
        self.0.path().join("secret")
    }

    fn unpack(&self, archive: Archive) -> Result<Unpacked, UnpackError> {
        unpack(Cursor::new(archive.end()), &self.root(), &Limits::default(), None)
    }

    /// Nothing beside the root was made or changed.
    fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(self.secret()).expect("the secret"), "secret");
        assert_eq!(fs::metadata(self.secret()).expect("the secret").nlink(), 1, "a hard link leads out");
        assert_eq!(fs::read_dir(self.0.path()).expect("the place").count(), 2, "something new beside the root");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).expect(name)
    }
}

#[track_caller]
fn check_refused(archive: Archive, part: &str) {
    let place = Place::new();
    let error = place.unpack(archive).expect_err(part).to_string();
    assert!(error.contains(part), "{error:?} lacks {part:?}");
    place.assert_untouched();
}

#[test]
fn dots_that_leave_are_refused() {
    for name in ["../secret", "a/../../secret", "/../secret", "./..", "a/../b"] {
        check_refused(Archive::new().file(name, "x"), "leaves the root");
    }
}

#[test]
fn absolute_names_are_inside() {
    let place = Place::new();
    place.unpack(Archive::new().file("/secret", "inside")).expect("unpacks");
    assert_eq!(place.text("secret"), "inside");
    place.assert_untouched();
}

#[test]
fn a_file_through_an_absolute_link_stays_inside() {
    let place = Place::new();
    let outside = place.0.path().to_str().expect("text").to_string();
    let archive = Archive::new().symlink("out", &outside).file("out/secret", "x");
    // The link's target does not exist inside the root, so there is nowhere to write.
    place.unpack(archive).expect_err("dangling inside");
    place.assert_untouched();
}

#[test]
fn a_file_through_a_relative_link_stays_inside() {
    let place = Place::new();
    let archive = Archive::new().symlink("up", "../../..").file("up/secret", "inside");
    place.unpack(archive).expect("dots in links end at the root");
    assert_eq!(place.text("secret"), "inside");
    place.assert_untouched();
}

#[test]
fn a_file_over_a_link_replaces_it() {
    let place = Place::new();
    let target = place.secret();
    let archive = Archive::new().symlink("a", target.to_str().expect("text")).file("a", "mine");
    place.unpack(archive).expect("unpacks");
    assert_eq!(place.text("a"), "mine");
    place.assert_untouched();
}

#[test]
fn a_directory_over_a_link_replaces_it() {
    let place = Place::new();
    let outside = place.0.path().to_str().expect("text").to_string();
    let archive = Archive::new().symlink("a", &outside).directory("a/").file("a/secret", "x");
    place.unpack(archive).expect("unpacks");
    assert_eq!(place.text("a/secret"), "x");
    place.assert_untouched();
}

#[test]
fn removing_through_links_stays_inside() {
    let place = Place::new();
    let outside = place.0.path().to_str().expect("text").to_string();
    // A directory with a link to the outside is replaced by a file: the link goes, not what it points to.
    let archive = Archive::new().directory("d").symlink("d/out", &outside).directory("d/e").file("d/e/f", "").file("d", "file");
    place.unpack(archive).expect("unpacks");
    assert_eq!(place.text("d"), "file");
    place.assert_untouched();
}

#[test]
fn hard_links_out_are_refused() {
    check_refused(Archive::new().hard_link("a", "../secret"), "leaves the root");
    check_refused(Archive::new().hard_link("a", "/etc/passwd"), "does not have");
    check_refused(Archive::new().symlink("up", "/").hard_link("a", "up/secret"), "does not have");
    check_refused(Archive::new().hard_link("a", "/"), "link to the root");
    check_refused(Archive::new().directory("d").hard_link("a", "d"), "link to a directory");
}

#[test]
fn a_hard_link_to_a_link_is_the_link() {
    let place = Place::new();
    let target = place.secret();
    let archive = Archive::new().symlink("a", target.to_str().expect("text")).hard_link("b", "a");
    place.unpack(archive).expect("unpacks");
    assert!(fs::symlink_metadata(place.root().join("b")).expect("b").is_symlink());
    place.assert_untouched();
}

#[test]
fn magic_links_are_not_followed() {
    let place = Place::new();
    let archive = Archive::new().symlink("self", "/proc/self/cwd").file("self/x", "");
    place.unpack(archive).expect_err("there is no /proc inside");
    place.assert_untouched();
}

#[test]
fn whiteouts_cannot_leave() {
    check_refused(Archive::new().file(".wh...", ""), "whiteout of nothing");
    check_refused(Archive::new().file("d/.wh..", ""), "whiteout of nothing");
    check_refused(Archive::new().file(".wh.", ""), "whiteout of nothing");
    check_refused(Archive::new().file("../.wh.secret", ""), "leaves the root");
    let device = Member { kind: b'3', name: b"secret", ..Member::default() };
    check_refused(Archive::new().add(device), "0/0");
}

#[test]
fn overlay_attributes_are_refused() {
    for name in ["SCHILY.xattr.trusted.overlay.redirect", "SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.user.overlay.metacopy"] {
        let member = Member { kind: b'5', name: b"d", pax: &[(name, b"/secret")], ..Member::default() };
        check_refused(Archive::new().add(member), "steers overlayfs");
    }
}

#[test]
fn strange_entries_are_refused() {
    check_refused(Archive::new().add(Member { kind: b'M', name: b"x", ..Member::default() }), "type that no layer");
    check_refused(Archive::new().file("./", ""), "replace the root");
    check_refused(Archive::new().add(Member { kind: b'2', name: b"x", ..Member::default() }), "impossible target");
    let long = "x".repeat(300);
    let member = Member { name: b"x", pax: &[("path", long.as_bytes())], ..Member::default() };
    check_refused(Archive::new().add(member), "too long a name");
    let owner = Member { name: b"x", pax: &[("uid", b"4294967295")], ..Member::default() };
    check_refused(Archive::new().add(owner), "impossible owner");
}

#[test]
fn limits_hold() {
    let limits = Limits { layer_bytes: 100_000, layer_entries: 10, path_depth: 3, layers: 1 };
    let many = (0..11).fold(Archive::new(), |archive, at| archive.file(&format!("f{at}"), ""));
    let sparse = Member { name: b"bomb", pax: &[("GNU.sparse.size", b"9000000000000"), ("GNU.sparse.map", b"0,0")], ..Member::default() };
    let large = "x".repeat(60_000);
    let cases = [
        (many.end(), "10 entries"),
        (Archive::new().file("a/b/c/d", "").end(), "3 path components"),
        (Archive::new().file("a", &large).file("b", &large).end(), "100000 bytes"),
        (Archive::new().add(sparse).end(), "100000 bytes"),
        ([Archive::new().file("a", "").end(), vec![0; 200_000]].concat(), "100000 bytes"),
    ];
    for (archive, part) in cases {
        let place = Place::new();
        let error = unpack(Cursor::new(archive), &place.root(), &limits, None).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn headers_that_promise_too_much_cost_nothing() {
    let mut name = Archive::new().raw(b'L', b"long", b"", &Member::default()).0;
    name[124..136].copy_from_slice(b"77777777777\0");
    name[148..156].fill(b' ');
    let sum: u32 = name[..512].iter().map(|byte| u32::from(*byte)).sum();
    name[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let place = Place::new();
    let error = unpack(Cursor::new(name), &place.root(), &Limits::default(), None).expect_err("too large");
    assert!(matches!(error, UnpackError::Archive(TarError::ExtensionTooLarge(_))), "{error}");
}

#[test]
fn damaged_archives_are_refused() {
    let whole = Archive::new().file("a", &"x".repeat(2000)).end();
    let mut wrong_sum = whole.clone();
    wrong_sum[0] = b'b';
    for (bytes, part) in [(whole[..1000].to_vec(), "ends inside"), (whole[..100].to_vec(), "ends inside"), (wrong_sum, "checksum")] {
        let place = Place::new();
        let error = unpack(Cursor::new(bytes), &place.root(), &Limits::default(), None).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_digest_covers_all() {
    let archive = Archive::new().file("a", "x").end();
    let digest = Hasher::digest(&archive);
    let unpack_as = |bytes: &[u8]| {
        let place = Place::new();
        unpack(Cursor::new(bytes), &place.root(), &Limits::default(), Some(&digest)).map(|unpacked| unpacked.diff_id)
    };
    assert_eq!(unpack_as(&archive).expect("unpacks"), digest);
    let mut longer = archive.clone();
    longer.extend([1; 10]);
    assert!(matches!(unpack_as(&longer), Err(UnpackError::DiffId { .. })));
}

#[test]
fn all_compressions_are_read() {
    use std::io::Write as _;
    let archive = Archive::new().file("a", &"x".repeat(100_000)).end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("compresses");
        encoder.finish().expect("compresses")
    };
    let members = [gzip(&archive[..1000]), gzip(&archive[1000..])].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("compresses");
    let frames = [zstd(&archive[..700]), zstd(&archive[700..])].concat();
    for bytes in [archive.clone(), gzip(&archive), members, zstd(&archive), frames] {
        let place = Place::new();
        let unpacked = unpack(Cursor::new(bytes), &place.root(), &Limits::default(), None).expect("unpacks");
        assert_eq!((unpacked.diff_id, unpacked.bytes, unpacked.inodes), (Hasher::digest(&archive), 100_000, 1));
    }
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let place = Place::new();
    let archive = Archive::new()
        .add(Member { kind: b'5', name: b"./", mode: 0o711, owner: (7, 8), mtime: 5, ..Member::default() })
        .add(Member { kind: b'5', name: b"d/", mode: 0o1777, owner: (1, 2), mtime: 1000, ..Member::default() })
        .add(Member { name: b"d/su", mode: 0o4755, owner: (1, 2), data: b"x", ..Member::default() })
        .add(Member {
            name: b"d/cap",
            pax: &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.a", b"b\0c"), ("SCHILY.xattr.trusted.x", b"y")],
            ..Member::default()
        })
        .add(Member { kind: b'2', name: b"d/l", link: b"nowhere", owner: (5, 6), mtime: 77, ..Member::default() })
        .add(Member { kind: b'6', name: b"d/fifo", mode: 0o622, ..Member::default() })
        .add(Member { kind: b'3', name: b"d/null", mode: 0o666, device: (1, 3), ..Member::default() })
        .add(Member {
            name: b"d/frac",
            pax: &[("mtime", b"12.5"), ("uid", b"3000000"), ("path", "d/\u{fc}".as_bytes())],
            ..Member::default()
        })
        .hard_link("d/su2", "d/su");
    let unpacked = place.unpack(archive).expect("unpacks");
    assert!(unpacked.implicit.is_empty());
    let stat = |name: &str| fs::symlink_metadata(place.root().join(name)).expect(name);
    let facts = |name: &str| (stat(name).mode() & 0o7777, stat(name).uid(), stat(name).gid(), stat(name).mtime());
    assert_eq!(facts(""), (0o711, 7, 8, 5));
    assert_eq!(facts("d"), (0o1777, 1, 2, 1000));
    assert_eq!(facts("d/su"), (0o4755, 1, 2, 1_600_000_000));
    assert_eq!((stat("d/l").uid(), stat("d/l").mtime()), (5, 77));
    assert!(stat("d/fifo").file_type().is_fifo() && facts("d/fifo").0 == 0o622);
    assert_eq!((stat("d/null").rdev(), facts("d/null").0), (rustix::fs::makedev(1, 3), 0o666));
    assert_eq!((stat("d/\u{fc}").uid(), stat("d/\u{fc}").mtime(), stat("d/\u{fc}").mtime_nsec()), (3_000_000, 12, 500_000_000));
    assert_eq!(stat("d/su").ino(), stat("d/su2").ino());
    let attribute = |name: &str| {
        let mut value = [0; 64];
        rustix::fs::getxattr(place.root().join("d/cap"), name, &mut value[..]).map(|got| value[..got].to_vec())
    };
    assert_eq!(attribute("security.capability").expect("kept"), capability);
    assert_eq!(attribute("user.a").expect("kept"), b"b\0c");
    assert!(attribute("trusted.x").is_err());
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.file_type().is_char_device() && stat.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]).is_ok_and(|got| &value[..got] == b"y")
}

#[test]
fn whiteouts_become_overlay_marks() {
    let place = Place::new();
    let archive = Archive::new()
        .directory("d/")
        .file("d/.wh.gone", "")
        .directory("o/")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "")
        .file("both/keep", "")
        .file(".wh.both", "")
        .file("d/.wh.later", "")
        .directory("d/later/")
        .file("d/.wh.file", "")
        .file("d/file", "new")
        .file(".wh..wh.plnk", "")
        .file(".wh..wh..opq", "");
    let unpacked = place.unpack(archive).expect("unpacks");
    let at = |name: &str| place.root().join(name);
    assert!(is_whiteout(&at("d/gone")));
    assert!(is_opaque(&at("o")) && at("o/new").exists());
    assert!(is_opaque(&at("both")) && at("both/keep").exists(), "what the layer brings itself stays");
    assert!(is_opaque(&at("d/later")) && !is_opaque(&at("d")));
    assert_eq!(place.text("d/file"), "new");
    assert!(unpacked.opaque_root && !is_opaque(&at("")));
    assert!(!at(".wh..wh.plnk").exists() && !at("o/.wh..wh..opq").exists());
}

#[test]
fn directories_without_entry_look_like_those_below() {
    let place = Place::new();
    let unpacked = place.unpack(Archive::new().file("a/b/c", "").directory("x/y/").directory("x/")).expect("unpacks");
    assert_eq!(unpacked.implicit, [Path::new("a"), Path::new("a/b")]);
    let lower = Place::new();
    let archive = Archive::new()
        .add(Member { kind: b'5', name: b"a", mode: 0o1777, owner: (3, 4), mtime: 9, ..Member::default() })
        .file("a/b", "no directory");
    lower.unpack(archive).expect("unpacks");
    for path in &unpacked.implicit {
        adopt_attributes(&place.root(), path, &[lower.root()]).expect("adopts");
    }
    let stat = |name: &str| fs::metadata(place.root().join(name)).expect(name);
    assert_eq!((stat("a").mode() & 0o7777, stat("a").uid(), stat("a").mtime()), (0o1777, 3, 9));
    assert_eq!((stat("a/b").mode() & 0o7777, stat("a/b").uid()), (0o755, 0));
}

/// Archives of the programs that people use, sparse files and long names included.
#[test]
fn archives_of_gnu_tar_are_read() {
    let place = Place::new();
    let source = place.0.path().join("source");
    let long = format!("{}/{}", "n".repeat(120), "m".repeat(150));
    fs::create_dir_all(source.join(&long)).expect("directories");
    fs::write(source.join(&long).join("file"), "deep").expect("a file");
    std::os::unix::fs::symlink("t".repeat(200), source.join("link")).expect("a link");
    let sparse = fs::File::create(source.join("sparse")).expect("a file");
    sparse.write_all_at(b"middle", 1 << 20).expect("writes");
    sparse.write_all_at(b"end", 5 << 20).expect("writes");
    drop(sparse);
    let whole = fs::read(source.join("sparse")).expect("reads");
    for format in ["gnu", "posix --sparse-version=1.0", "posix --sparse-version=0.1", "posix --sparse-version=0.0"] {
        let root = place.0.path().join("root");
        fs::remove_dir_all(&root).expect("removes");
        fs::create_dir(&root).expect("a root");
        let mut arguments = vec!["--sparse"];
        let format_argument = format!("--format={format}");
        arguments.extend(format_argument.split(' '));
        let output = std::process::Command::new("tar")
            .args(&arguments)
            .args(["-C", source.to_str().expect("text"), "-cf", "-", "."])
            .output()
            .expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let unpacked = unpack(Cursor::new(output.stdout), &root, &Limits::default(), None).expect(format);
        assert_eq!(fs::read_to_string(root.join(&long).join("file")).expect("reads"), "deep", "{format}");
        assert_eq!(fs::read_link(root.join("link")).expect("reads").as_os_str().as_bytes().len(), 200, "{format}");
        assert!(fs::read(root.join("sparse")).expect("reads") == whole, "{format}");
        let blocks = fs::metadata(root.join("sparse")).expect("stat").blocks();
        assert!(blocks < 256, "{format}: holes stay holes, {blocks} blocks");
        assert_eq!(unpacked.bytes, whole.len() as u64 + 4, "{format}");
    }
}

/// Bytes changed at random never lead out and never panic.
#[test]
fn changed_archives_stay_inside() {
    let place = Place::new();
    let archive = Archive::new()
        .directory("a/")
        .symlink("a/l", "../..")
        .file("a/l/f", "data")
        .hard_link("h", "a/l/f")
        .add(Member {
            name: b"p",
            pax: &[("path", b"a/q"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"5")],
            data: b"x",
            ..Member::default()
        })
        .end();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let limits = Limits { layer_bytes: 1 << 20, layer_entries: 100, path_depth: 10, layers: 1 };
    for _ in 0..2000 {
        let mut bytes = archive.clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        // With the checksums mended, the change reaches the reader behind them.
        for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _any = unpack(Cursor::new(bytes), &place.root(), &limits, None);
        fs::remove_dir_all(place.root()).expect("removes");
        fs::create_dir(place.root()).expect("a root");
    }
    place.assert_untouched();
}
