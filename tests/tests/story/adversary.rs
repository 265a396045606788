//! Input from others: packets, names, and commands while the daemon hangs. Nothing ends the daemon, and no
//! command waits without a limit.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

fn post(fixture: &Fixture, path: &str, body: &str) -> Result<String> {
    let mut socket = UnixStream::connect(fixture.lab.paths().run().join("control.sock"))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: sixxs\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn invalid_confirmation_times_are_refused() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut daemon = fixture.start()?;
    for seconds in ["18446744073709551615", "9223372036854775807", "86401", "0"] {
        let body = format!("{{\"confirm_within_seconds\": {seconds}}}");
        let answer = post(&fixture, "/v1/reload", &body)?;
        assert!(answer.starts_with("HTTP/1.1 422"), "{seconds}: {answer}");
        assert!(answer.contains("from 1 to 86400"), "{seconds}: {answer}");
    }
    assert!(daemon.is_running()?);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn unused_signals_are_ignored() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut daemon = fixture.start()?;
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        daemon.signal(signal)?;
        assert!(fixture.program.status()?.healthy, "{signal}");
        assert!(daemon.is_running()?, "{signal}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The exit status of `plan` reports differences even if the reader of its output is gone.
#[test]
fn plan_keeps_its_exit_status_on_a_closed_pipe() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut command = fixture.program.command(&["plan"]);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let status = command.stdout(writer).status()?;
    assert_eq!(status.code(), Some(3));
    Ok(())
}

#[test]
fn commands_give_up_when_the_daemon_hangs() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    daemon.signal(Signal::SIGSTOP)?;
    for command in [&["reload"][..], &["confirm"], &["stop"]] {
        let printed = fixture.program.run(command)?;
        assert_eq!(printed.code, 1, "{printed:#?}");
        assert!(printed.stderr.contains("did not answer"), "{printed:#?}");
    }
    let down = fixture.program.run(&["down"])?;
    assert_eq!(down.code, 1, "{down:#?}");
    assert!(down.stderr.contains("kill it"), "{down:#?}");
    assert_eq!(fixture.own_rules()?, "");
    daemon.kill().context("end it by force")?;
    fixture.program.run_ok(&["down"])?;
    Ok(())
}
