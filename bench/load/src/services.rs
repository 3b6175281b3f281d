//! Many services, and how soon a change of one endpoint is in the dataplane: measured by connections through the
//! cluster address, so that no proxy's own idea of its rules counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Client, PatchKind, ResourceId};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::api::each;
use crate::pods::{LONGEST, served};
use crate::{Load, Measured};

const SERVICES: ResourceId = ResourceId::new("", "v1", "services");
const SLICES: ResourceId = ResourceId::new("discovery.k8s.io", "v1", "endpointslices");
const NAMESPACE: &str = "default";
/// Where `listen` listens.
const PORT: u16 = 9090;
/// Addresses of the machine that listens.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 20), Ipv4Addr::new(192, 0, 2, 21)];
/// Proxies may gather changes for a second after one; this row measures a change that comes alone.
const QUIET: Duration = Duration::from_millis(1300);

fn name(number: usize) -> String {
    format!("load-{number}")
}

fn endpoints(address: Ipv4Addr) -> Value {
    json!([{"addresses": [address], "conditions": {"ready": true}}])
}

/// Answers every connection with the address at which it came in, until it is ended.
///
/// # Errors
/// The port is taken.
pub async fn listen() -> Result<Measured> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    loop {
        let (mut connection, _) = listener.accept().await?;
        let address = connection.local_addr()?.ip().to_string();
        // A client that went away has nothing to be told.
        connection.write_all(address.as_bytes()).await.ok();
    }
}

/// Creates `COUNT` services with an endpoint each, and waits until the first and the last answer. Those two lead to the
/// listener; the endpoints of the others are addresses of no one.
///
/// # Errors
/// A refusal, or a service that is never reached.
pub async fn create(load: &Load) -> Result<Measured> {
    let client = load.client()?;
    served(&client).await?;
    let last = load.count - 1;
    let measured = each(load, |client, number| async move {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number), "labels": {"made-by": "load"}},
            "spec": {"ports": [{"port": 80, "targetPort": PORT, "protocol": "TCP"}]}});
        client.call(Method::POST, &SERVICES.collection_path(NAMESPACE), &service).await?;
        let [_, _, high, low] = u32::try_from(number)?.to_be_bytes();
        let address = if number == 0 || number == last { ENDS[0] } else { Ipv4Addr::new(198, 18, high, low) };
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name(number), "labels": {"kubernetes.io/service-name": name(number), "endpointslice.kubernetes.io/managed-by": "load"}},
            "ports": [{"port": PORT, "protocol": "TCP"}], "endpoints": endpoints(address)});
        client.call(Method::POST, &SLICES.collection_path(NAMESPACE), &slice).await?;
        Ok(())
    })
    .await?;
    for number in [0, last] {
        reached(cluster_address(&client, number).await?, ENDS[0]).await.with_context(|| format!("service {number} of {}", load.count))?;
    }
    Ok(measured)
}

/// Moves the endpoint of one service to and fro, `COUNT` times: from sending the change to the API until a connection
/// reaches the new endpoint.
///
/// # Errors
/// A refusal, or an endpoint that is never reached.
pub async fn flip(load: &Load) -> Result<Measured> {
    let client = load.client()?;
    let address = cluster_address(&client, 0).await?;
    reached(address, ENDS[0]).await?;
    let begin = Measured::begin();
    let mut each = Vec::new();
    for number in 0..load.count {
        tokio::time::sleep(QUIET).await;
        let end = ENDS[(number + 1) % 2];
        let begin = Instant::now();
        client.patch(&SLICES, NAMESPACE, &name(0), "", &PatchKind::Merge, &json!({"endpoints": endpoints(end)})).await?;
        reached(address, end).await?;
        each.push(begin.elapsed());
    }
    if load.count % 2 == 1 {
        client.patch(&SLICES, NAMESPACE, &name(0), "", &PatchKind::Merge, &json!({"endpoints": endpoints(ENDS[0])})).await?;
    }
    Ok(Measured::new(load.count, begin.elapsed(), each))
}

async fn cluster_address(client: &Client, number: usize) -> Result<SocketAddr> {
    let service = client.call(Method::GET, &SERVICES.path(NAMESPACE, &name(number), ""), &Value::Null).await?;
    let address: Ipv4Addr = service["spec"]["clusterIP"].as_str().context("the service has no address")?.parse()?;
    Ok(SocketAddr::from((address, 80)))
}

/// Connects until this endpoint answers. The pauses leave the cores to the proxy.
async fn reached(address: SocketAddr, end: Ipv4Addr) -> Result<()> {
    let begin = Instant::now();
    let mut last = String::from("nothing");
    while begin.elapsed() < LONGEST {
        match tokio::time::timeout(Duration::from_millis(250), ask(address)).await {
            Ok(Ok(answer)) if answer == end.to_string() => return Ok(()),
            Ok(Ok(answer)) => last = answer,
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = "no answer".into(),
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    bail!("{address} never leads to {end}; last: {last}")
}

async fn ask(address: SocketAddr) -> Result<String> {
    let mut answer = String::new();
    TcpStream::connect(address).await?.read_to_string(&mut answer).await?;
    Ok(answer)
}
