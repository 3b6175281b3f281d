//! How a worker gets its pod's ground, and what it does without: the turns around [`prepare`](super::prepare) and
//! [`wiring`](super::wiring).

use client::EventKind;
use cri::engine::Sandbox;

use super::backoff::Backoff;
use super::message::{Message, Prepared, Trouble};
use super::wiring::{self, Wired, Wiring};
use super::worker::Worker;
use super::{model, past, resize};
use crate::clock::now_ms;

/// How long after a failure the ground is tried again at the soonest and at the latest.
const RETRY: (i64, i64) = (500, 20_000);

impl Worker {
    /// Has the ground made, unless that is under way or too soon.
    pub(super) fn prepare(&mut self) {
        if self.preparing || self.wiring {
            return;
        }
        if self.prepare_not_before > now_ms() {
            self.wake = Some(self.prepare_not_before);
            return;
        }
        self.preparing = true;
        past::add(&mut self.observed.past, std::mem::take(&mut self.observed.attempts));
        let lost = self.sandbox.take();
        let earlier = self.observed.past.clone();
        let (kubelet, pod, class, sender) = (self.kubelet.clone(), self.pod.clone(), self.class, self.sender.clone());
        self.tasks.spawn(async move {
            past::clear(&kubelet, &pod, lost, &earlier).await;
            let result = super::prepare::prepare(&kubelet, &pod, class).await;
            let _ = sender.send(Message::Prepared(result));
        });
    }

    /// There is a ground, or none yet.
    pub(super) fn prepared(&mut self, result: Result<Prepared, Trouble>) {
        self.preparing = false;
        match result {
            Ok(prepared) => {
                self.volumes = prepared.volumes;
                self.observed.addresses = prepared.addresses;
                self.observed.sandbox = true;
                if let Some(own) = resize::whole(&self.pod) {
                    self.observed.applied.insert(resize::WHOLE.to_owned(), own.clone());
                }
                self.kubelet.pods.set_sandbox(model::uid(&self.pod), Some(prepared.sandbox.clone()));
                match prepared.wiring {
                    Some(wiring) => self.wire(prepared.sandbox.clone(), wiring),
                    None => {
                        self.wired = Wired::already();
                        self.prepare_backoff = Backoff::default();
                    }
                }
                self.sandbox = Some(prepared.sandbox);
                self.sandbox_is_new = true;
            }
            Err(trouble) => self.unprepared(&trouble),
        }
    }

    /// Whether a pod that was taken over has its network: we may have ended while it was made.
    pub(super) fn is_wired(&self) -> bool {
        let on_host = self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        match &self.kubelet.network {
            Some(network) if !on_host => network.is_wired(model::uid(&self.pod)).unwrap_or(true),
            _ => true,
        }
    }

    fn unprepared(&mut self, trouble: &Trouble) {
        self.event(EventKind::Warning, &trouble.reason, &trouble.message);
        self.prepare_not_before = now_ms() + RETRY.0.max(self.prepare_backoff.current().min(RETRY.1));
        self.prepare_backoff.failed(now_ms());
    }

    fn wire(&mut self, sandbox: Sandbox, wiring: Wiring) {
        let (done, wired) = Wired::working();
        self.wired = wired;
        self.wiring = true;
        self.tasks.spawn(wiring::wire(self.kubelet.clone(), self.pod.clone(), sandbox, wiring, self.sender.clone(), done));
    }

    /// The sandbox has its network, or is gone with the containers that were made in it and never ran.
    pub(super) fn wired(&mut self, result: Result<(), Trouble>) {
        self.wiring = false;
        let Err(trouble) = result else {
            self.prepare_backoff = Backoff::default();
            return;
        };
        self.unprepared(&trouble);
        self.kubelet.pods.set_sandbox(model::uid(&self.pod), None);
        self.sandbox = None;
        self.observed.sandbox = false;
        self.observed.attempts.clear();
        self.observed.addresses.clear();
    }
}
