//! A DNS component over objects in memory, with an upstream server of its own, asked over real sockets.
#![allow(dead_code, reason = "each test file uses a part")]

use api::Status;
use client::{Change, Client, ListWatch, Selection, Transport};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Entry, Kind, Revision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{broadcast, watch};

/// The API, as far as lists and watches go.
pub struct Objects {
    state: Mutex<(u64, Vec<(String, Arc<Entry>)>)>,
    changes: broadcast::Sender<(String, Change)>,
    /// Lists wait until this is true.
    pub open: watch::Sender<bool>,
}

impl Objects {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((1, Vec::new())), changes: broadcast::channel(1024).0, open: watch::Sender::new(true) })
    }

    fn entry(plural: &str, object: &Value, revision: u64) -> Arc<Entry> {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap();
        let rest = match metadata["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        let key = Kind::new(format!("/{plural}/")).key(rest);
        let bytes = serde_json::to_vec(object).unwrap().into();
        let header = client::header::read(&key, &bytes).unwrap();
        Arc::new(Entry::new(key, Revision(revision), Revision(1), bytes, header))
    }

    pub fn put(&self, plural: &str, object: &Value) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        let entry = Self::entry(plural, object, state.0);
        state.1.retain(|(kind, old)| kind != plural || old.key.rest != entry.key.rest);
        state.1.push((plural.to_owned(), entry.clone()));
        let _ = self.changes.send((plural.to_owned(), Change::Put(entry)));
    }

    pub fn delete(&self, plural: &str, key: &str) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        let revision = state.0;
        let at = state.1.iter().position(|(kind, old)| kind == plural && &*old.key.rest == key).unwrap();
        let (_, old) = state.1.remove(at);
        let last = Entry::new(old.key.clone(), Revision(revision), Revision(1), old.bytes.clone(), old.header.clone());
        let _ = self.changes.send((plural.to_owned(), Change::Deleted(Arc::new(last))));
    }
}

impl Transport for Objects {
    fn call(&self, _request: http::Request<bytes::Bytes>) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, Status>> {
        panic!("DNS only lists and watches")
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        Box::pin(async move {
            let _ = self.open.subscribe().wait_for(|open| *open).await;
            let plural = selection.resource.plural.to_string();
            let state = self.state.lock().unwrap();
            let initial = state.1.iter().filter(|(kind, _)| *kind == plural).map(|(_, entry)| entry.clone()).collect();
            let receiver = self.changes.subscribe();
            let changes = futures_util::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await.ok()?, receiver)) });
            let changes = changes.filter_map(move |(kind, change)| {
                let ours = kind == plural;
                async move { ours.then_some(Ok(change)) }
            });
            Ok(ListWatch { initial, revision: Revision(state.0), changes: Box::pin(changes) })
        })
    }
}

/// A running component.
pub struct World {
    pub objects: Arc<Objects>,
    pub address: SocketAddr,
    pub ready: watch::Receiver<bool>,
    pub stats: Arc<dns::Stats>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    pub async fn start(objects: Arc<Objects>) -> Self {
        let sockets = dns::Sockets::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        Self::start_on(objects, sockets).await
    }

    /// Ends the component.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub async fn start_on(objects: Arc<Objects>, sockets: dns::Sockets) -> Self {
        let address = sockets.addresses()[0];
        let config = dns::Config {
            domain: "cluster.local".into(),
            listen: Vec::new(),
            sockets,
            own_addresses: vec!["10.96.0.10".parse().unwrap()],
            upstream: dns::Upstream::Servers(vec![silent().await, upstream().await]),
            ttl: 5,
            remembered: 100,
        };
        let (ready, is_ready) = watch::channel(false);
        let stats = Arc::new(dns::Stats::default());
        let deps = dns::Deps { client: Client::new(objects.clone()), ready, stats: stats.clone() };
        let task = tokio::spawn(async move { dns::run(config, deps).await.unwrap() });
        Self { objects, address, ready: is_ready, stats, task }
    }

    pub async fn until_ready(&mut self) {
        let wait = self.ready.wait_for(|ready| *ready);
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
    }

    /// Asks over UDP; the answer as text, one line a record.
    pub async fn ask(&self, name: &str, kind: RecordType) -> String {
        print(&self.exchange(name, kind, None).await)
    }

    pub async fn exchange(&self, name: &str, kind: RecordType, payload: Option<u16>) -> Message {
        let bytes = self.raw(&query(name, kind, payload)).await.expect("no answer");
        Message::from_vec(&bytes).unwrap()
    }

    /// Sends bytes and waits for bytes.
    pub async fn raw(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 4096];
        let received = tokio::time::timeout(Duration::from_secs(60), socket.recv(&mut buffer)).await.ok()?;
        buffer.truncate(received.unwrap());
        Some(buffer)
    }

    pub async fn ask_tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let query = query(name, kind, None);
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    }
}

pub fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// `NoError aa: <name> <type> <data>; ... | <additional>; ...`, records sorted; negative answers name their authority.
pub fn print(message: &Message) -> String {
    let list = |records: &[Record]| {
        let mut lines: Vec<String> =
            records.iter().map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect();
        lines.sort();
        lines.join("; ")
    };
    let flag = if message.metadata.authoritative { " aa" } else { "" };
    let mut text = format!("{:?}{flag}: {}", message.metadata.response_code, list(&message.answers));
    if !message.additionals.is_empty() {
        text.push_str(&format!(" | {}", list(&message.additionals)));
    }
    let soa = message.authorities.iter().find(|record| record.record_type() == RecordType::SOA);
    if let Some(soa) = soa {
        text.push_str(&format!(" soa {}", soa.name));
    }
    text.trim_end().to_owned()
}

/// A server that never answers.
async fn silent() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while socket.recv(&mut buffer).await.is_ok() {}
    });
    address
}

/// A server that knows `*.example.com`, cuts `big.example.com` over UDP and denies everything else.
async fn upstream() -> SocketAddr {
    let mut sockets = dns::Sockets::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let (socket, listener) = (sockets.udp.remove(0), sockets.tcp.remove(0));
    socket.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (socket, listener) = (UdpSocket::from_std(socket).unwrap(), TcpListener::from_std(listener).unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..size], true);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = answer(&bytes, false);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

fn answer(bytes: &[u8], udp: bool) -> Vec<u8> {
    let query = Message::from_vec(bytes).unwrap();
    let question = query.queries[0].clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.add_query(question.clone());
    let name = question.name().to_lowercase();
    if !name.to_ascii().ends_with("example.com.") {
        answer.metadata.response_code = ResponseCode::NXDomain;
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 20);
        answer.add_authority(Record::from_rdata(root, 20, RData::SOA(soa)));
    } else if name.to_ascii().starts_with("big") {
        answer.metadata.truncation = udp;
        for last in 0..if udp { 0 } else { 100 } {
            answer.add_answer(Record::from_rdata(name.clone(), 20, RData::A(A::new(192, 0, 2, last))));
        }
    } else if question.query_type() == RecordType::A {
        answer.add_answer(Record::from_rdata(name, 20, RData::A(A::new(192, 0, 2, 1))));
    }
    answer.to_vec().unwrap()
}
