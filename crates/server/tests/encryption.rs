//! Encryption at rest on a real server: nothing readable on disk, everything readable after a crash, keys that change.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use server::{Encryption, Security};
use tempfile::TempDir;

mod https_peer;
mod server_under_test;

use https_peer::until;
use server_under_test::UnderTest;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn key(name: &str, byte: u8) -> Value {
    json!({"keys": [{"name": name, "secret": STANDARD.encode([byte; 32])}]})
}

fn write(path: &Path, resources: Value, providers: Value) {
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": providers}],
    });
    std::fs::write(path, file.to_string()).unwrap();
}

async fn start(dir: TempDir) -> (UnderTest, Arc<Encryption>) {
    let encryption = Encryption::load(&dir.path().join("encryption.yaml")).unwrap();
    let security = Security { encryption: Some(encryption.clone()), ..Security::default() };
    (UnderTest::start_in(dir, security).await, encryption)
}

/// A copy of the folder as it is now: what a killed process leaves.
fn crashed(test: &UnderTest) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(format!("{}/.", test.dir().display())).arg(copy.path()).status().unwrap();
    assert!(status.success());
    copy
}

/// Whether a text is anywhere in the store's files.
fn on_disk(test: &UnderTest, text: &str) -> bool {
    fn visit(path: &Path, text: &[u8]) -> bool {
        if path.is_dir() {
            return std::fs::read_dir(path).unwrap().any(|entry| visit(&entry.unwrap().path(), text));
        }
        std::fs::read(path).is_ok_and(|content| content.windows(text.len()).any(|window| window == text))
    }
    visit(&test.dir().join("store"), text.as_bytes())
}

fn secret(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"text": STANDARD.encode(text)}})
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_on_disk_and_survive_a_crash() {
    for (name, provider) in [("secretbox", key("k", 1)), ("aesgcm", key("k", 2)), ("aescbc", key("k", 3))] {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("encryption.yaml"), json!(["secrets"]), json!([{name: provider}, {"identity": {}}]));
        let (test, _) = start(dir).await;
        let words = "nobody-may-read-this";
        test.create(SECRETS, &secret("s", words)).await;
        test.create(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"text": "everybody-may"}}))
            .await;
        assert!(!on_disk(&test, &STANDARD.encode(words)), "{name}");
        assert!(on_disk(&test, &format!("k8s:enc:{name}:v1:k:")), "{name}");
        assert!(on_disk(&test, "everybody-may"));
        let (again, _) = start(crashed(&test)).await;
        assert_eq!(again.get(&format!("{SECRETS}/s")).await["data"]["text"], STANDARD.encode(words));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_turned_on_and_rotated_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.yaml");
    write(&path, json!(["secrets"]), json!([{"identity": {}}]));
    let (test, _) = start(dir).await;
    let path = test.dir().join("encryption.yaml");
    let old = test.create(SECRETS, &secret("s", "words")).await;
    let taken = |test: &UnderTest| test.server.reloads().states()[&test.dir().join("encryption.yaml")].taken;

    std::fs::write(&path, "{kind: Nonsense}").unwrap();
    until("the bad file is refused", || !test.server.reloads().states()[&path].error.is_empty()).await;
    write(&path, json!(["*."]), json!([{"secretbox": key("new", 7)}, {"identity": {}}]));
    until("the new file is taken over", || taken(&test) == 1).await;
    assert!(!on_disk(&test, "k8s:enc:secretbox:v1:new:"));

    // Writing what is there encrypts it once; writing it again changes nothing.
    let mut revisions = vec![old["metadata"]["resourceVersion"].clone()];
    for _ in 0..2 {
        let current = test.get(&format!("{SECRETS}/s")).await;
        let (code, body) = test.call(Method::PUT, &format!("{SECRETS}/s"), "application/json", current.to_string()).await;
        assert_eq!(code, 200, "{body}");
        revisions.push(body["metadata"]["resourceVersion"].clone());
    }
    assert_ne!(revisions[0], revisions[1]);
    assert_eq!(revisions[1], revisions[2]);
    assert!(on_disk(&test, "k8s:enc:secretbox:v1:new:"));

    // After a restart with a further key in front, the value is old again; without its key it cannot be read.
    let copy = crashed(&test);
    let copied = copy.path().join("encryption.yaml");
    write(&copied, json!(["*."]), json!([{"aescbc": key("third", 9)}, {"secretbox": key("new", 7)}, {"identity": {}}]));
    let (again, _) = start(copy).await;
    let current = again.get(&format!("{SECRETS}/s")).await;
    let (_, body) = again.call(Method::PUT, &format!("{SECRETS}/s"), "application/json", current.to_string()).await;
    assert_ne!(body["metadata"]["resourceVersion"], current["metadata"]["resourceVersion"]);
    assert!(on_disk(&again, "k8s:enc:aescbc:v1:third:"));
    let lost = crashed(&again);
    write(&lost.path().join("encryption.yaml"), json!(["*."]), json!([{"aescbc": key("third", 8)}, {"identity": {}}]));
    let encryption = Encryption::load(&lost.path().join("encryption.yaml")).unwrap();
    let mut options = store::embedded::Options::new(lost.path().join("store"), client::header::stamp(), "test");
    options.cipher = encryption;
    assert!(store::embedded::Embedded::open(options).is_err());
}

#[test]
fn bad_configurations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.yaml");
    for (resources, providers, why) in [
        (json!(["secrets"]), json!([]), "at least one"),
        (json!(["*"]), json!([{"identity": {}}]), "use '*.'"),
        (json!(["secrets", "*."]), json!([{"identity": {}}]), "overlapping"),
        (json!(["secrets"]), json!([{"identity": {}, "aesgcm": key("k", 1)}]), "more than one provider"),
        (json!(["secrets"]), json!([{"secretbox": {"keys": [{"name": "k", "secret": "c2hvcnQ="}]}}]), "expected length"),
        (json!(["secrets"]), json!([{"kms": {"apiVersion": "v1", "name": "k", "endpoint": "unix:///x"}}]), "not supported"),
    ] {
        write(&path, resources, providers);
        let found = Encryption::load(&path).unwrap_err().to_string();
        assert!(found.contains(why), "{found}");
    }
}
