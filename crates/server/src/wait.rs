//! Waiting in code that is called by expressions and codecs and so cannot be async: conversions by webhook and
//! authorization by webhook inside a synchronous step.
//!
//! The thread that waits hands its other tasks on first, so that nobody waits with it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};

/// The outcome of a future. Most need no waiting at all.
pub fn wait<T: Send>(future: impl Future<Output = T> + Send) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            let mut future = pin!(future);
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
            tokio::task::block_in_place(|| handle.block_on(future))
        }
        _ => std::thread::scope(|scope| scope.spawn(|| apart(future)).join().expect("the waiting thread does not panic")),
    }
}

/// On a thread that has no runtime with threads to spare, the future gets a runtime of its own.
fn apart<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread can be made").block_on(future)
}
