//! What the service manager is told, where there is one that wants to know: that the agent works, that it lives, and that
//! it ends. See `sd_notify(3)`; it takes one datagram, and no library.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells it one thing, such as `READY=1`. Whether anybody hears it makes no difference.
pub(crate) fn tell(what: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(why) = send(&socket, what) {
        tracing::debug!(%why, "the service manager hears nothing");
    }
}

fn send(socket: &OsStr, what: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // One that is no file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // An agent that waits for its manager would be waited for by it.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(what.as_bytes(), &address).map(drop)
}

/// No manager has to hear more often.
const OFTEN: Duration = Duration::from_millis(10);

/// Tells it again and again that this thread goes on, where it watches that.
pub(crate) async fn live() -> Infallible {
    let variable = |name| std::env::var(name).ok();
    let own = std::process::id().to_string();
    let micros = variable("WATCHDOG_USEC")
        .filter(|_| variable("WATCHDOG_PID").is_none_or(|pid| pid == own))
        .and_then(|micros| micros.parse().ok())
        .filter(|micros| *micros > 0);
    let Some(patience) = micros.map(Duration::from_micros) else {
        return std::future::pending().await;
    };
    loop {
        tell("WATCHDOG=1");
        tokio::time::sleep((patience / 2).max(OFTEN)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_by_a_file_or_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("orchestrator-test-{}", std::process::id());
        let abstracted = SocketAddr::from_abstract_name(&name).unwrap();
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstracted).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (manager, socket) in managers {
            send(&socket, "READY=1").unwrap();
            let mut heard = [0; 20];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
