//! What a service manager (systemd) is told: that the process is up, that it lives, that it stops.
//!
//! The protocol is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names (sd_notify(3)). Without that variable nobody
//! asked, and nothing is told.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::Health;

/// The manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    /// None: there is none.
    told: Option<(UnixDatagram, SocketAddr)>,
    /// Within which time it wants to hear that the process lives.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment tells.
    ///
    /// # Errors
    /// Where a socket is named and cannot be used.
    pub fn from_environment() -> io::Result<Self> {
        let variable = std::env::var_os;
        // A watchdog that was set for a parent is none of ours.
        let ours = variable("WATCHDOG_PID").is_none_or(|id| id == *std::process::id().to_string());
        Self::new(variable("NOTIFY_SOCKET"), variable("WATCHDOG_USEC").filter(|_| ours))
    }

    fn new(socket: Option<OsString>, watchdog_us: Option<OsString>) -> io::Result<Self> {
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
            return Ok(Self { told: None, watchdog: None });
        };
        let address = match socket.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&socket)?,
        };
        let watchdog = watchdog_us.and_then(|text| text.to_str()?.parse().ok()).filter(|us| *us > 0);
        Ok(Self { told: Some((UnixDatagram::unbound()?, address)), watchdog: watchdog.map(Duration::from_micros) })
    }

    /// The process is up.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The process was asked to stop and drains.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells that the process lives, as long as its liveness says so: where it does not, the manager starts it anew. Never returns.
    pub async fn watch(&self, health: &Health) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        // Three times in the time that is allowed: one that comes late costs nothing.
        let mut tick = tokio::time::interval(watchdog / 3);
        loop {
            tick.tick().await;
            let report = health.live();
            if report.ok {
                self.tell("WATCHDOG=1");
            } else {
                tracing::error!(checks = ?report.checks, "not alive: the service manager is to start this anew");
            }
        }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.told
            && let Err(error) = socket.send_to_addr(what.as_bytes(), address)
        {
            tracing::warn!(%error, what, "the service manager cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn named(name: &str) -> (UnixDatagram, OsString) {
        let name = format!("depin-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, format!("@{name}").into())
    }

    #[tokio::test]
    async fn the_manager_hears_of_start_life_and_stop_and_not_of_a_life_that_is_none() {
        let (socket, name) = named("life");
        let manager = ServiceManager::new(Some(name), Some("30000".into())).unwrap();
        manager.ready();
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
        let health = Health::new();
        let check = health.liveness("store");
        let mut alive = 0;
        while alive < 3 {
            assert!(tokio::time::timeout(Duration::from_millis(20), manager.watch(&health)).await.is_err());
            alive += std::iter::from_fn(|| heard(&socket)).inspect(|told| assert_eq!(told, "WATCHDOG=1")).count();
        }
        check.fail("it hangs");
        assert!(tokio::time::timeout(Duration::from_millis(100), manager.watch(&health)).await.is_err());
        assert_eq!(heard(&socket), None);
        manager.stopping();
        assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
    }

    #[test]
    fn without_a_socket_nobody_is_told_and_an_abstract_one_is_understood() {
        ServiceManager::new(None, Some("1".into())).unwrap().ready();
        let (socket, name) = named("start");
        ServiceManager::new(Some(name), None).unwrap().ready();
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
    }
}
