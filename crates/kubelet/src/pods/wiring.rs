//! A pod gets its interface while its first containers are made: both take long, and neither needs the other. Nothing of a
//! pod runs before it has its network.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::Pod;
use net::HostPort;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::message::{Message, Trouble};
use super::model;
use super::prepare::chain;
use crate::Kubelet;
use crate::metrics::Phase;

/// What a pod's network is still to be made of.
pub struct Wiring {
    /// Where the interface belongs.
    pub netns: PathBuf,
    /// The pod's reserved address.
    pub address: IpAddr,
    /// The pod's ports on the host.
    pub host_ports: Vec<HostPort>,
}

/// Whether a pod has its network; its containers wait for that before they start.
#[derive(Debug, Clone)]
pub struct Wired(watch::Receiver<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    Done,
    Failed,
}

/// Who says so.
#[derive(Debug)]
pub struct Done(watch::Sender<State>);

impl Wired {
    /// That of a pod whose network is being made.
    pub fn working() -> (Done, Wired) {
        let (done, wired) = watch::channel(State::Working);
        (Done(done), Wired(wired))
    }

    /// That of a pod that needs no network of its own, or has it already.
    pub fn already() -> Wired {
        Wired(watch::Sender::new(State::Done).subscribe())
    }

    /// Waits for the network; false if it could not be made.
    pub async fn done(&self) -> bool {
        let mut state = self.0.clone();
        let state = state.wait_for(|state| *state != State::Working).await;
        // Whoever makes it ends with a verdict, unless all ends.
        state.is_ok_and(|state| *state == State::Done)
    }
}

/// Makes the network of a sandbox. Where that fails, address and sandbox are given up; the worker hears of it before those who
/// wait do, so that none of them is told to start again in what is no more.
pub async fn wire(kubelet: Arc<Kubelet>, pod: Arc<Pod>, sandbox: Sandbox, wiring: Wiring, sender: UnboundedSender<Message>, done: Done) {
    let began = Instant::now();
    let turn = kubelet.wiring.lock().await;
    let (kubelet_too, uid) = (kubelet.clone(), model::uid(&pod).to_owned());
    let made = tokio::task::spawn_blocking(move || made(&kubelet_too, &uid, wiring)).await;
    let made = made.unwrap_or_else(|error| Err(trouble(&error.to_string())));
    drop(turn);
    let verdict = match made {
        Ok(()) => {
            kubelet.metrics.phase(Phase::Network, began.elapsed());
            State::Done
        }
        Err(_) => {
            discard(sandbox).await;
            State::Failed
        }
    };
    let _ = sender.send(Message::Wired(made));
    done.0.send_replace(verdict);
}

fn made(kubelet: &Kubelet, uid: &str, wiring: Wiring) -> Result<(), Trouble> {
    let network = kubelet.network.as_ref().ok_or_else(|| trouble("the pod network is not open"))?;
    let wired = network.wire(uid, &wiring.netns, wiring.address, wiring.host_ports);
    wired.map_err(|error| trouble(&format!("set up network: {}", chain(&error))))
}

fn trouble(why: &str) -> Trouble {
    Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"))
}

/// Ends a sandbox that is of no use.
pub async fn discard(sandbox: Sandbox) {
    if let Err(error) = sandbox.destroy().await {
        tracing::warn!(%error, "sandbox without network stays");
    }
}
