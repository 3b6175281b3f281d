//! Probes by a command in the container: exit code 0 passes.

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;
use runtime::ExecError;

use super::{Outcome, Target};

/// Output that is kept for the event.
const MAX_OUTPUT: usize = 10 * 1024;

/// Carries the probe out.
pub async fn probe(target: &Target, action: &ExecAction, timeout: Duration) -> Outcome {
    let argv = action.command.clone().unwrap_or_default();
    match target.sandbox.exec_sync(&target.id, argv, Some(timeout), MAX_OUTPUT).await {
        Ok(output) => {
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            if output.exit.success() { Outcome::Success(text) } else { Outcome::Failure(text) }
        }
        Err(ExecError::Timeout { command }) => {
            Outcome::Failure(format!("command timed out: {command:?} timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}
