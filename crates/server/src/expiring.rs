//! Answers of webhooks that count for a while, bounded in number, found by a digest so that no token is kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Most answers that are kept.
const KEPT: usize = 8192;

/// Answers by what was asked.
pub struct Expiring<T>(Mutex<HashMap<[u8; 32], (Instant, T)>>);

impl<T> Default for Expiring<T> {
    fn default() -> Expiring<T> {
        Expiring(Mutex::default())
    }
}

/// What a question is found by.
pub fn key(question: &[u8]) -> [u8; 32] {
    Sha256::digest(question).into()
}

impl<T: Clone> Expiring<T> {
    /// An answer that still counts.
    pub fn get(&self, key: &[u8; 32]) -> Option<T> {
        self.0.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer.
    pub fn put(&self, key: [u8; 32], answer: T, time: Duration) {
        if time.is_zero() {
            return;
        }
        let mut answers = self.0.lock();
        if answers.len() >= KEPT {
            let now = Instant::now();
            answers.retain(|_, (until, _)| *until > now);
            if answers.len() >= KEPT {
                answers.clear();
            }
        }
        answers.insert(key, (Instant::now() + time, answer));
    }
}
