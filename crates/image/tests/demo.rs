//! The demo image is complete in itself: its program runs in a root that holds nothing but the image's layers.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use image::demo::{NAMES, import_demo};

#[tokio::test]
async fn the_demo_image_runs_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = support::open(directory.path(), "");
    let images = import_demo(&store).await.expect("this machine links statically");
    assert_eq!(images.iter().map(|image| image.names[0].as_str()).collect::<Vec<_>>(), NAMES);
    assert_eq!(import_demo(&store).await.expect("is present"), images);
    assert_eq!(store.layers(&images[0]), store.layers(&images[1]), "the versions share all but the config");
    assert!(images[0].pinned && images[0].size < 4 << 20, "{} bytes", images[0].size);
    let root = store.layers(&images[0]).remove(0);
    let command = |words: &[&str]| {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(&root).args(words).env_clear().envs(images[1].config.env.iter().filter_map(|pair| pair.split_once('=')));
        command
    };
    let output = command(&["/bin/sh", "-c", "echo hello; ls /; nothing"]).output().expect("chroot runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\nbin\ndemo\netc\nroot\ntmp\n");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("nothing: not found"));
    let port = support::free_port();
    let mut server = command(&["/bin/serve", &port.to_string()]).stdout(Stdio::piped()).spawn().expect("chroot runs");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.contains("serves version 2"), "{first}");
    let output = command(&["/bin/wget", "-qO-", &format!("http://127.0.0.1:{port}/")]).output().expect("chroot runs");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(", version 2.\n"), "{output:?}");
    let log = lines.next().expect("a line").expect("text");
    assert!(log.starts_with("127.0.0.1 GET / ") && log.ends_with(" 200"), "{log}");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is ours");
    assert_eq!(server.wait().expect("ends").code(), Some(143));
}
