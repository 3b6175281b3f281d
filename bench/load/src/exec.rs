//! A program inside a pod, as `kubectl exec` runs it: from the connection to the exit status.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Request;
use stream::{ExitStatus, RemoteCommandOptions, client::remote_command};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pods::Pods;
use crate::{Load, Measured};

/// The number of its pod, which no other row uses: late news of a pod that is gone would be taken for it.
const NUMBER: usize = 1_000_000;

/// Runs a program that says a word in a pod `COUNT` times, one after the other, each over a connection of its own.
///
/// # Errors
/// The pod does not run, or a program does not end well.
pub async fn again_and_again(load: &Load) -> Result<Measured> {
    let mut pods = Pods::open(load).await?;
    pods.create(NUMBER, "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", &["sleep", "3600"]).await?;
    pods.all_running(&[NUMBER]).await?;
    let connect = load.connect_by("http/1.1")?;
    let begin = Measured::begin();
    let mut each = Vec::new();
    for _ in 0..load.count {
        let started = Instant::now();
        once(&connect).await?;
        each.push(started.elapsed());
    }
    let wall = begin.elapsed();
    pods.delete().await?;
    Ok(Measured::new(load.count, wall, each))
}

async fn once(connect: &client::Connect) -> Result<()> {
    let server: http::Uri = connect.server.parse()?;
    let host = server.host().context("the server has no host")?.to_owned();
    let tcp = TcpStream::connect((host.as_str(), server.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    let io = TlsConnector::from(connect.tls.clone()).connect(host.try_into()?, tcp).await?;
    let options = RemoteCommandOptions { stdin: false, stdout: true, stderr: false, tty: false, creation_timeout: Duration::from_secs(30) };
    let query = options.to_query(&[("container", "main"), ("command", "echo"), ("command", "word")]);
    let request =
        Request::get(format!("/api/v1/namespaces/default/pods/load-{NUMBER}/exec?{query}")).header("host", "kubernetes").body(())?;
    let mut process = remote_command(io, request, &options).await?;
    let mut said = String::new();
    process.stdout.take().context("no output was opened")?.read_to_string(&mut said).await?;
    match process.control.wait().await? {
        ExitStatus::Success if said == "word\n" => Ok(()),
        status => bail!("the program said {said:?} and ended with {}", status.to_json()),
    }
}
