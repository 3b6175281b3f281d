//! Calls of the kubelet's own port: by strangers, and with names that are meant as paths.

use std::sync::Arc;

use pki::{ClusterPki, HotCert, ServerTrust, Subject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::{ADDRESS, IMAGE, World};

/// Paths of calls that are served.
const SERVED: [&str; 9] = [
    "GET /pods",
    "GET /containerLogs/default/app/main",
    "POST /run/default/app/main?cmd=id",
    "POST /exec/default/app/main?command=id&output=1",
    "POST /attach/default/app/main?output=1",
    "POST /portForward/default/app",
    "GET /metrics",
    "GET /stats/summary",
    "GET /healthz",
];

/// Makes a call as it stands and gives the code of the answer; 401 too where the connection is refused.
async fn call(world: &World, certificate: Option<&Arc<HotCert>>, token: Option<&str>, line: &str) -> u16 {
    let trust = ServerTrust::Authorities(vec![world.pki.server_ca.cert_pem().to_owned()]);
    let tls = pki::client_config(&trust, certificate, &["http/1.1"]).expect("a configuration");
    let name = rustls_pki_types::ServerName::try_from(ADDRESS).expect("an address");
    let stream = TcpStream::connect((ADDRESS, 10250)).await.expect("a connection");
    let Ok(mut stream) = TlsConnector::from(Arc::new(tls)).connect(name, stream).await else { return 401 };
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n{token}\r\n");
    let mut answer = Vec::new();
    // A server that trusts nobody may hang up before all is written.
    let asked = stream.write_all(request.as_bytes()).await;
    let _ended_rudely = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split(' ').nth(1).and_then(|code| code.parse().ok()) {
        Some(code) => code,
        None => {
            assert!(asked.is_err() || answer.is_empty(), "{line}: {answer}");
            401
        }
    }
}

pub async fn strangers_are_sent_away_and_names_lead_nowhere(world: World) {
    world.start("").await;
    world.running("app", json!({"containers": [{"name": "main", "image": IMAGE}]})).await;
    let elsewhere = ClusterPki::load_or_create(&world.folder.join("other-pki")).expect("keys");
    let certificate = |pki: &ClusterPki, name: &str, groups: &[&str]| {
        pki.client_cert(&format!("calls-{name}"), &Subject::new(name, groups)).expect("a certificate")
    };
    let master = certificate(&world.pki, "master", &["system:masters"]);
    let nobody = certificate(&world.pki, "nobody", &[]);
    let forged = certificate(&elsewhere, "forged", &["system:masters"]);
    for line in SERVED {
        assert_eq!(call(&world, None, None, line).await, 401, "nobody: {line}");
        assert_eq!(call(&world, None, Some("made-up"), line).await, 401, "a token that nobody gave: {line}");
        assert_eq!(call(&world, Some(&forged), None, line).await, 401, "another authority: {line}");
        assert_eq!(call(&world, Some(&nobody), None, line).await, 403, "without leave: {line}");
    }
    assert_eq!(call(&world, Some(&master), None, "GET /containerLogs/default/app/main").await, 200);
    for line in [
        "GET /containerLogs/default/app/..",
        "GET /containerLogs/default/app/../../../../etc/hostname",
        "GET /containerLogs/default/../main",
        "GET /containerLogs/default/app/..%2F..%2F..%2Fetc%2Fhostname",
        "GET /containerLogs/default/app/main%2F..",
        "POST /run/default/../main?cmd=id",
        "POST /run/default/app/..?cmd=id",
        "POST /exec/default/app/..?command=id&output=1",
        "POST /attach/default/app/%2E%2E?output=1",
        "POST /portForward/default/..",
        // What real kubelets have or had, and we do not: files of the node, checkpoints, profiles of the program.
        "GET /logs/",
        "GET /logs/../../etc/hostname",
        "GET /logs/..%2F..%2Fetc%2Fhostname",
        "POST /checkpoint/default/app/main",
        "GET /debug/pprof/",
        "GET /cri/exec/1",
        "GET //etc/hostname",
        "GET /../../etc/hostname",
    ] {
        assert_eq!(call(&world, Some(&master), None, line).await, 404, "{line}");
    }
}
