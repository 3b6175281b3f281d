//! Where callers leave their changes for the committer.
//!
//! Whatever has gathered while a batch was on its way to the disk is the next batch. The committer is
//! woken only when it sleeps.

use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{Change, CommitError, Outcome};

/// A change on its way.
pub(super) struct Request {
    pub(super) change: Change,
    /// The value as it is written to disk.
    pub(super) stored: Bytes,
    pub(super) reply: oneshot::Sender<Result<Outcome, CommitError>>,
}

/// The waiting changes.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    bell: Condvar,
}

#[derive(Default)]
struct Inner {
    requests: Vec<Request>,
    asleep: bool,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// No more requests; the committer ends when it has done those that are there.
    Closed,
    /// A write failed.
    Failed(String),
}

/// What the committer woke up for.
pub(super) enum Work {
    /// Changes, in the order in which they came.
    Requests(Vec<Request>),
    /// The time that it asked to be woken at has come.
    Due,
    /// There will be nothing more.
    Ended,
}

impl Queue {
    pub(super) fn push(&self, request: Request) -> Result<(), CommitError> {
        let mut inner = self.inner.lock();
        match &inner.state {
            State::Open => {}
            State::Closed => return Err(CommitError::Failed("it is closed".into())),
            State::Failed(why) => return Err(CommitError::Failed(why.clone())),
        }
        inner.requests.push(request);
        if inner.asleep {
            inner.asleep = false;
            drop(inner);
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Waits for work. `spare` is an empty list to gather the next requests in.
    pub(super) fn wait(&self, due: Option<Instant>, spare: Vec<Request>) -> Work {
        let mut inner = self.inner.lock();
        loop {
            if !inner.requests.is_empty() {
                return Work::Requests(std::mem::replace(&mut inner.requests, spare));
            }
            if !matches!(inner.state, State::Open) {
                return Work::Ended;
            }
            inner.asleep = true;
            match due {
                None => self.bell.wait(&mut inner),
                Some(due) => {
                    if self.bell.wait_until(&mut inner, due).timed_out() && inner.requests.is_empty() {
                        inner.asleep = false;
                        return Work::Due;
                    }
                }
            }
            inner.asleep = false;
        }
    }

    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        if matches!(inner.state, State::Open) {
            inner.state = State::Closed;
        }
        self.bell.notify_one();
    }

    /// Refuses all further requests, and gives back those that were waiting.
    pub(super) fn fail(&self, why: &str) -> Vec<Request> {
        let mut inner = self.inner.lock();
        inner.state = State::Failed(why.to_owned());
        self.bell.notify_one();
        std::mem::take(&mut inner.requests)
    }

    /// Why the store takes no changes any more.
    pub(super) fn failure(&self) -> Option<String> {
        match &self.inner.lock().state {
            State::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }
}
