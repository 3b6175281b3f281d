//! Leader election by a Lease, for components that run in several processes.
//!
//! A single server needs none: it holds the lock of its data directory. Observation times are kept in memory only
//! and may be lost; a new process waits one full lease before it takes over.

use std::time::{Duration, Instant};

use client::Client;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Longest time that giving up a lease may take: who ends must not be held up by a server that is gone.
const RELEASE: Duration = Duration::from_secs(2);

/// Which lease, and who asks for it.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Namespace, usually `kube-system`.
    pub namespace: String,
    /// Name, for example `kube-scheduler`.
    pub name: String,
    /// Who we are; unique in the cluster.
    pub identity: String,
    /// How long a lease holds without renewal.
    pub duration: Duration,
    /// How long renewal may fail before the work ends; shorter than `duration`, so that two never work at once.
    pub renew: Duration,
    /// How often it is tried or renewed.
    pub retry: Duration,
}

/// How leading came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Led<T> {
    /// The work ended by itself.
    Done(T),
    /// The lease could not be renewed in time.
    Lost,
    /// We were told to stop, before or while we led.
    Stopped,
}

/// Waits until we lead, then runs `work` and renews until the lease is lost, `work` ends or `stop` does.
///
/// # Guarantees
///
/// * Who is told to stop ends the work first and then gives up the lease, so that nobody waits for its end.
pub async fn lead<T>(client: &Client, config: &LeaseConfig, stop: impl Future<Output = ()>, work: impl Future<Output = T>) -> Led<T> {
    let mut seen: Option<(Option<MicroTime>, Instant)> = None;
    let wait = async {
        while !try_hold(client, config, &mut seen).await {
            tokio::time::sleep(config.retry).await;
        }
    };
    tokio::pin!(stop);
    tokio::select! {
        () = wait => {}
        () = &mut stop => {
            // The last try may have succeeded unheard.
            release(client, config).await;
            return Led::Stopped;
        }
    }
    let led = tokio::select! {
        result = work => Led::Done(result),
        () = renew(client, config) => Led::Lost,
        () = stop => Led::Stopped,
    };
    if matches!(led, Led::Stopped) {
        release(client, config).await;
    }
    led
}

/// Gives up the lease if it is ours: nobody holds it, for one second.
async fn release(client: &Client, config: &LeaseConfig) {
    let release = async {
        let Some(mut lease) = client.find::<Lease>(&config.namespace, &config.name).await? else { return Ok(()) };
        let old = lease.spec.take().unwrap_or_default();
        if old.holder_identity.as_deref() != Some(&config.identity) {
            return Ok(());
        }
        let fresh = spec(config, &MicroTime(Timestamp::now()), old.lease_transitions.unwrap_or(0));
        lease.spec = Some(LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..fresh });
        client.update(&lease).await.map(drop)
    };
    match tokio::time::timeout(RELEASE, release).await {
        Ok(Ok(())) => {}
        Ok(Err(status)) => tracing::warn!(lease = config.name, %status, "the lease was not given up"),
        Err(_) => tracing::warn!(lease = config.name, "the lease was not given up in time"),
    }
}

/// Renews until the lease could not be renewed for as long as that may take.
async fn renew(client: &Client, config: &LeaseConfig) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(config.retry).await;
        let began = Instant::now();
        let left = config.renew.saturating_sub(renewed.elapsed());
        match tokio::time::timeout(left, try_hold(client, config, &mut None)).await {
            Ok(true) => renewed = began,
            Ok(false) => {}
            Err(_) => return,
        }
    }
}

async fn try_hold(client: &Client, config: &LeaseConfig, seen: &mut Option<(Option<MicroTime>, Instant)>) -> bool {
    match hold(client, config, seen).await {
        Ok(held) => held,
        Err(status) => {
            tracing::debug!(lease = config.name, %status, "lease was not taken");
            false
        }
    }
}

async fn hold(client: &Client, config: &LeaseConfig, seen: &mut Option<(Option<MicroTime>, Instant)>) -> Result<bool, api::Status> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = client.find::<Lease>(&config.namespace, &config.name).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(config.name.clone()), namespace: Some(config.namespace.clone()), ..ObjectMeta::default() },
            spec: Some(spec(config, &now, 0)),
        };
        client.create(&lease).await?;
        return Ok(true);
    };
    let old = lease.spec.clone().unwrap_or_default();
    let ours = old.holder_identity.as_deref() == Some(&config.identity);
    let free = old.holder_identity.as_deref().unwrap_or("").is_empty();
    if !ours && !free {
        let known = seen.as_ref().is_some_and(|(renew, _)| *renew == old.renew_time);
        if !known {
            *seen = Some((old.renew_time.clone(), Instant::now()));
        }
        let duration = old.lease_duration_seconds.map_or(config.duration, |seconds| Duration::from_secs(seconds.max(1) as u64));
        if seen.as_ref().is_none_or(|(_, since)| since.elapsed() < duration) {
            return Ok(false);
        }
    }
    let transitions = old.lease_transitions.unwrap_or(0) + i32::from(!ours);
    let mut fresh = spec(config, &now, transitions);
    if ours {
        fresh.acquire_time = old.acquire_time;
    }
    lease.spec = Some(fresh);
    client.update(&lease).await?;
    Ok(true)
}

fn spec(config: &LeaseConfig, now: &MicroTime, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(config.duration.as_secs() as i32),
        acquire_time: Some(now.clone()),
        renew_time: Some(now.clone()),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}
