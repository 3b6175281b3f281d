//! systemd-logind: whoever holds a delay lock is told before the machine goes down, and has the time that logind allows.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::bus::{Bus, BusError, Call};
use super::wire::{Malformed, Message, Reader, Writer};

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// File of ours among those that change logind's settings.
const DROP_IN: &str = "99-kubelet.conf";

/// Why the machine's end is not announced to us.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    /// The bus or the service.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The answer is not what was asked for.
    #[error("unexpected answer of logind")]
    Answer(#[from] Malformed),
    /// The file could not be written.
    #[error("write the delay that logind shall allow")]
    Write(#[source] std::io::Error),
    /// The time is not given.
    #[error(
        "unable to update logind InhibitDelayMaxSec to {wanted:?} (ShutdownGracePeriod), current value of InhibitDelayMaxSec \
         ({allowed:?}) is less than requested ShutdownGracePeriod"
    )]
    TooShort {
        /// What pods need.
        wanted: Duration,
        /// What logind gives.
        allowed: Duration,
    },
}

/// Its manager on the bus.
pub struct Logind {
    bus: Bus,
}

impl Logind {
    /// Meets it, with so much time allowed; `settings` is the folder of files that change its settings.
    ///
    /// # Errors
    /// It is not there or does not give the time.
    pub async fn meet(bus: &Path, wanted: Duration, settings: &Path) -> Result<Logind, LogindError> {
        let mut logind = Logind { bus: Bus::connect(bus).await? };
        if logind.delay().await? < wanted {
            std::fs::create_dir_all(settings).map_err(LogindError::Write)?;
            let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
            std::fs::write(settings.join(DROP_IN), text).map_err(LogindError::Write)?;
            logind.reload().await?;
            let allowed = logind.delay().await?;
            if allowed < wanted {
                return Err(LogindError::TooShort { wanted, allowed });
            }
        }
        let mut rule = Writer::default();
        rule.text(&format!("type='signal',sender='{SERVICE}',interface='{MANAGER}',member='PrepareForShutdown',path='{PATH}'"));
        logind.ask_bus("AddMatch", rule).await?;
        Ok(logind)
    }

    /// Calls the bus itself.
    async fn ask_bus(&mut self, member: &str, body: Writer) -> Result<Message, LogindError> {
        let interface = "org.freedesktop.DBus";
        let call = Call { service: interface, path: "/org/freedesktop/DBus", interface, member, signature: "s", body };
        Ok(self.bus.call(call).await?.0)
    }

    /// How long it lets a lock hold the machine up.
    async fn delay(&mut self) -> Result<Duration, LogindError> {
        let mut body = Writer::default();
        body.text(MANAGER);
        body.text("InhibitDelayMaxUSec");
        let interface = "org.freedesktop.DBus.Properties";
        let (answer, _) = self.bus.call(Call { service: SERVICE, path: PATH, interface, member: "Get", signature: "ss", body }).await?;
        let mut reader = Reader::new(&answer.body);
        if reader.signature()? != "t" {
            return Err(Malformed.into());
        }
        Ok(Duration::from_micros(reader.long()?))
    }

    /// Has it read its settings again.
    async fn reload(&mut self) -> Result<(), LogindError> {
        let mut body = Writer::default();
        body.text("systemd-logind.service");
        body.text("all");
        body.number(1);
        let call = Call {
            service: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "KillUnit",
            signature: "ssi",
            body,
        };
        self.bus.call(call).await?;
        Ok(())
    }

    /// Takes a lock that delays the machine's end until it is dropped.
    ///
    /// # Errors
    /// It is not given.
    pub async fn lock(&mut self) -> Result<OwnedFd, LogindError> {
        let mut body = Writer::default();
        for word in ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"] {
            body.text(word);
        }
        let call = Call { service: SERVICE, path: PATH, interface: MANAGER, member: "Inhibit", signature: "ssss", body };
        let (_, lock) = self.bus.call(call).await?;
        Ok(lock.ok_or(Malformed)?)
    }

    /// The next word about the machine's end: true before it, false when it was called off.
    ///
    /// # Errors
    /// The bus went away.
    pub async fn word(&mut self) -> Result<bool, LogindError> {
        loop {
            let signal = self.bus.signal().await?;
            if signal.member != "PrepareForShutdown" || signal.interface != MANAGER {
                continue;
            }
            // Everybody on the machine may send signals, to us alone even past the rule of what we want to hear.
            let mut name = Writer::default();
            name.text(SERVICE);
            let owner = self.ask_bus("GetNameOwner", name).await?;
            if Reader::new(&owner.body).text()? == signal.sender {
                return Ok(Reader::new(&signal.body).number()? != 0);
            }
            tracing::warn!(sender = signal.sender, "somebody who is not logind says that the machine goes down");
        }
    }
}
