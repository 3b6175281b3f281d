//! The etcd store against a real etcd: the suite of behaviours, and what only etcd can do to a store.
//!
//! `cargo test -p store --features etcd --test etcd`. The program is taken from `ETCD` or the path; the
//! tests say so and pass where there is none.

mod histories;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::etcd::{Etcd, Options};
use store::{At, Change, Expect, Filter, Kind, Limit, Op, Revision, Store, WatchError, suite};

/// A single member with a directory of its own.
struct Member {
    process: Child,
    program: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    peer: u16,
}

fn program() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|dir| dir.join("etcd"));
    let named = std::env::var_os("ETCD").map(PathBuf::from);
    let found = named.into_iter().chain(on_path).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: there is no etcd on this machine");
    }
    found
}

/// None of those that the system gives to connections on their way out, so that nobody takes it before etcd does, also
/// while an etcd is down. Each is handed out once, by a process that begins elsewhere than others.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 5000;
    let mut ports = (0..5000).map(|_| 27000 + (first + TRIED.fetch_add(1, Ordering::Relaxed)) % 5000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn run(program: &PathBuf, dir: &tempfile::TempDir, port: u16, peer: u16) -> Child {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer}");
    Command::new(program)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Member {
    fn start() -> Option<Member> {
        let program = program()?;
        let dir = tempfile::tempdir().unwrap();
        let (port, peer) = (free_port(), free_port());
        let process = run(&program, &dir, port, peer);
        Some(Member { process, program, dir, port, peer })
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = run(&self.program, &self.dir, self.port, self.peer);
    }

    async fn open(&self) -> Arc<Etcd> {
        let endpoints = vec![format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", self.port)];
        let mut options = Options::new(endpoints, suite::stamp());
        options.compact_every = None;
        opened(options).await
    }
}

async fn opened(options: Options) -> Arc<Etcd> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Etcd::open(options.clone()).await {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn put(kind: &Kind, rest: &str, value: &str) -> Change {
    let raw = Bytes::copy_from_slice(value.as_bytes());
    Change { key: kind.key(rest), expect: Expect::Any, op: Op::Put { raw, ttl: None } }
}

async fn put_until_it_works(store: &Etcd, kind: &Kind, rest: &str, value: &str) -> Revision {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match store.commit(put(kind, rest, value)).await {
            Ok(outcome) => return outcome.committed().unwrap().revision,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_can_be_explained() {
    let Some(member) = Member::start() else {
        return;
    };
    let store = member.open().await;
    for _ in 0..5 {
        histories::check(store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite() {
    let Some(member) = Member::start() else {
        return;
    };
    let store = member.open().await;
    for behaviour in suite::behaviours() {
        println!("{}", behaviour.name);
        behaviour.check(store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_servers_see_the_same() {
    let Some(member) = Member::start() else {
        return;
    };
    let kind = Kind::new("/registry/pods/");
    let (one, two) = (member.open().await, member.open().await);
    let mut changes = two.watch(kind.all(), two.mvcc().revision(), Filter::All).unwrap();
    for round in 0..20 {
        let rest = format!("default/{round}");
        let entry = one.commit(put(&kind, &rest, "x")).await.unwrap().committed().unwrap();
        let found = two.list(kind.all().into(), At::Latest, Limit::NONE).await.unwrap();
        assert!(found.revision >= entry.revision);
        assert_eq!(found.value.entries.len(), round + 1);
        assert_eq!(changes.next().await.unwrap().revision, entry.revision);
    }
    // A third one starts later and reads states from before.
    let three = member.open().await;
    let middle = changes.progress();
    one.commit(put(&kind, "default/more", "x")).await.unwrap();
    let early = one.list(kind.all().into(), At::Exact(Revision(middle.0 - 10)), Limit::page(4)).await.unwrap().value;
    let late = three.list(kind.all().into(), At::Exact(Revision(middle.0 - 10)), Limit::page(4)).await.unwrap().value;
    let keys = |page: &store::Page| page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&early), keys(&late));
    assert_eq!((early.more, early.remaining), (late.more, late.remaining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_etcd_is_survived() {
    let Some(mut member) = Member::start() else {
        return;
    };
    let kind = Kind::new("/registry/pods/");
    let store = member.open().await;
    let begin = store.mvcc().revision();
    let mut changes = store.watch(kind.all(), begin, Filter::All).unwrap();
    let first = put_until_it_works(&store, &kind, "default/a", "1").await;
    member.kill();
    let down = store.commit(put(&kind, "default/a", "2")).await;
    assert!(down.is_err());
    assert_eq!(store.mvcc().get(&kind.key("default/a")).value.unwrap().revision, first, "what is known stays readable");
    while store.failure().is_none() {
        tokio::task::yield_now().await;
    }
    member.start_again();
    let second = put_until_it_works(&store, &kind, "default/b", "1").await;
    assert_eq!(changes.next().await.unwrap().revision, first);
    loop {
        let event = changes.next().await.unwrap();
        if event.revision == second {
            break;
        }
        assert_eq!(&*event.entry.key.rest, "default/a", "the write whose outcome was unknown");
    }
}

/// Over TLS in both directions: etcd asks for a certificate, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let authority_file = write("ca.pem", authority_certificate.pem());
    let certificate_file = write("cert.pem", certificate.pem());
    let key_file = write("key.pem", key.serialize_pem());
    let (port, peer) = (free_port(), free_port());
    let client = format!("https://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer}");
    let process = Command::new(&program)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
        .args(["--client-cert-auth", "--trusted-ca-file"])
        .arg(authority_file)
        .arg("--cert-file")
        .arg(certificate_file)
        .arg("--key-file")
        .arg(key_file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let member = Member { process, program, dir, port, peer: 0 };

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority_certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let own_key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.der().clone()], own_key)
        .unwrap();
    let mut options = Options::new(vec![client], suite::stamp());
    assert!(Etcd::open(options.clone()).await.is_err(), "not without certificates");
    options.tls = Some(Arc::new(config));
    let store = opened(options).await;
    let kind = Kind::new("/registry/pods/");
    let put = put_until_it_works(&store, &kind, "default/a", "1").await;
    assert_eq!(store.now().await.unwrap(), put);
    drop(member);
}

/// While the watch is away, etcd moves on and forgets: what is different then arrives as events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_fell_out_of_history_is_based_anew() {
    let Some(mut member) = Member::start() else {
        return;
    };
    let kind = Kind::new("/registry/pods/");
    let store = member.open().await;
    for rest in ["default/kept", "default/changed", "default/gone"] {
        put_until_it_works(&store, &kind, rest, "1").await;
    }
    let begin = store.mvcc().revision();
    let mut changes = store.watch(kind.all(), begin, Filter::All).unwrap();
    // Another port for a while: the store does not find it, somebody else does.
    member.kill();
    let usual = std::mem::replace(&mut member.port, free_port());
    member.start_again();
    let other = member.open().await;
    put_until_it_works(&other, &kind, "default/changed", "2").await;
    put_until_it_works(&other, &kind, "default/changed", "3").await;
    put_until_it_works(&other, &kind, "default/new", "1").await;
    let gone = Change { key: kind.key("default/gone"), expect: Expect::Any, op: Op::Delete };
    let last = other.commit(gone).await.unwrap().committed().unwrap().revision;
    other.compact(last).await.unwrap();
    drop(other);
    member.kill();
    member.port = usual;
    member.start_again();

    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap().unwrap();
        let text = String::from_utf8(event.entry.bytes.to_vec()).unwrap();
        assert!(event.revision > begin && event.revision == event.entry.revision);
        seen.push((event.entry.key.rest.to_string(), event.kind, suite::value(&text).to_owned()));
    }
    use store::EventKind::{Delete, Put};
    let expected = [("default/changed", Put, "3"), ("default/new", Put, "1"), ("default/gone", Delete, "1")];
    assert_eq!(seen, expected.map(|(rest, kind, value)| (rest.to_owned(), kind, value.to_owned())));
    let between = store.watch(kind.all(), begin.next(), Filter::All).map(|_| ());
    assert!(matches!(between, Err(WatchError::TooOld { .. })), "{between:?}");
    let found = store.list(kind.all().into(), At::Latest, Limit::NONE).await.unwrap().value;
    let names: Vec<_> = found.entries.iter().map(|entry| entry.key.name().to_owned()).collect();
    assert_eq!(names, ["changed", "kept", "new"]);
}
