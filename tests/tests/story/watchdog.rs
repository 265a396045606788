//! Notifications to systemd: ready, watchdog, stopping. A daemon that hangs sends no watchdog ping.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// The watchdog's limit. The daemon sends two notifications in this time.
const LIMIT: Duration = Duration::from_millis(600);

/// The next notification within this time, or `None`.
fn hear(socket: &UnixDatagram, within: Duration) -> Result<Option<String>> {
    socket.set_read_timeout(Some(within))?;
    let mut buffer = [0; 256];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(Some(
            String::from_utf8_lossy(&buffer[..length]).into_owned(),
        )),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("listen to the daemon"),
    }
}

/// Waits for this notification. Others than `besides` are an error.
fn until(socket: &UnixDatagram, word: &str, besides: &str) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        match hear(socket, LIMIT)? {
            Some(message) if message.trim() == word => return Ok(()),
            Some(message) if message.trim() == besides => {}
            other => bail!("{other:?} in place of {word}"),
        }
    }
    bail!("{word} was not said")
}

#[test]
fn a_hanging_daemon_sends_no_watchdog_notifications() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let path = fixture.lab.paths().base().join("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    let mut command = fixture.program.command(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
    let daemon = fixture.program.start_as(command)?;
    until(&socket, "READY=1", "WATCHDOG=1")?;
    for _ in 0..5 {
        until(&socket, "WATCHDOG=1", "")?;
    }

    // Reading this file blocks for ever, as on a file system that does not respond.
    let names = fixture.lab.paths().rt_tables().join("sixxs.conf");
    std::fs::remove_file(&names)?;
    mkfifo(&names, Mode::from_bits_truncate(0o600))?;
    fixture
        .host()
        .sh("ip -6 rule add from 2001:db8:c::1 lookup main priority 30000")?;
    let began = Instant::now();
    while hear(&socket, 2 * LIMIT)?.is_some() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "a daemon that hangs says that all is well"
        );
    }
    std::fs::write(&names, "")?;
    until(&socket, "WATCHDOG=1", "")?;
    std::fs::remove_file(&names)?;

    assert_eq!(daemon.stop()?, 0);
    until(&socket, "STOPPING=1", "WATCHDOG=1")
}
