//! Times to live: one lease for many objects that end at about the same time.
//!
//! A lease costs etcd more than a key, and every event of a cluster has a time to live. So leases are a
//! little longer than asked for, and serve as long as they are long enough.

use std::time::{Duration, Instant};

use grpc::Failure;
use tokio::sync::Mutex;

use super::calls::Members;
use super::proto::{LeaseGrantRequest, LeaseGrantResponse};

/// A lease is at most this much longer than asked for.
const SLACK: Duration = Duration::from_secs(60);
/// More objects than this end with a lease of their own.
const OBJECTS: usize = 1000;

/// The leases that can still be used, at most one per time to live.
#[derive(Default)]
pub(super) struct Leases(Mutex<Vec<Lease>>);

struct Lease {
    ttl: Duration,
    id: u64,
    /// It does not end before.
    ends: Instant,
    objects: usize,
}

impl Leases {
    /// A lease that ends after `ttl`, not before.
    pub(super) async fn get(&self, members: &Members, ttl: Duration) -> Result<u64, Failure> {
        let mut leases = self.0.lock().await;
        let now = Instant::now();
        leases.retain(|lease| lease.ends > now + lease.ttl && lease.objects < OBJECTS);
        if let Some(lease) = leases.iter_mut().find(|lease| lease.ttl == ttl) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let seconds = (ttl + (ttl / 20).min(SLACK)).as_millis().div_ceil(1000);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let granted: LeaseGrantResponse = members.call("/etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { seconds }).await?;
        let LeaseGrantResponse { id, seconds: granted } = granted;
        leases.push(Lease { ttl, id, ends: now + Duration::from_secs(granted), objects: 1 });
        Ok(id)
    }
}
