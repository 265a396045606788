//! Every way out of `sixxs top` restores the terminal: its modes, its screen, its cursor.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Hook, finish};
use sixxs_tests::terminal::pty::Pty;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

fn begin(fixture: &Fixture) -> Result<Pty> {
    let pty = Pty::start(&mut fixture.program.command(&["top"]), "xterm")?;
    pty.until("it draws", |written| {
        written.contains(ENTER) && written.contains("all healthy")
    })?;
    assert!(pty.is_raw()? && !pty.is_as_before()?);
    Ok(pty)
}

/// The modes, and the last sequences.
fn is_given_back(pty: &Pty) -> Result<()> {
    assert!(pty.is_as_before()?, "the modes: {:?}", pty.written());
    pty.until("the last written is the screen of before", |written| {
        written.trim_end().ends_with(LEAVE)
    })
}

#[test]
fn by_keys_and_signals() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for (key, expected) in [(&b"q"[..], 0), (b"\x03", 0), (b"?q", 0)] {
        let mut pty = begin(&fixture)?;
        pty.key(key)?;
        assert_eq!(pty.wait()?, expected, "{key:?}");
        is_given_back(&pty)?;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut pty = begin(&fixture)?;
        pty.signal(signal)?;
        assert_eq!(pty.wait()?, 128 + signal as i32, "{signal}");
        is_given_back(&pty)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn into_the_background_and_back() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let mut pty = begin(&fixture)?;
    for by_key in [true, false] {
        if by_key {
            pty.key(b"\x1a")?;
        } else {
            pty.signal(Signal::SIGTSTP)?;
        }
        pty.stopped()?;
        is_given_back(&pty)?;
        let before = pty.written().len();
        pty.signal(Signal::SIGCONT)?;
        pty.until("it draws anew", |written| {
            let since = &written[before..];
            since.contains(ENTER) && since.contains("all healthy")
        })?;
        assert!(pty.is_raw()?);
    }
    pty.key(b"q")?;
    assert_eq!(pty.wait()?, 0);
    is_given_back(&pty)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A connection that breaks: it ends, and says nothing to nobody.
#[test]
fn terminal_gone() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let mut pty = begin(&fixture)?;
    pty.hang_up()?;
    let status = pty.wait()?;
    assert!([1, 129].contains(&status), "{status}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn without_terminal_or_daemon() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut pty = Pty::start(&mut fixture.program.command(&["top"]), "xterm")?;
    assert_eq!(pty.wait()?, 4, "no daemon: {}", pty.written());
    pty.until("why", |written| written.contains("no daemon answers"))?;
    assert!(!pty.written().contains('\x1b'), "{:?}", pty.written());

    let printed = fixture.program.run(&["top"])?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    assert!(
        printed.stderr.contains("sixxs status --watch"),
        "{printed:#?}"
    );
    assert!(printed.stdout.is_empty(), "{printed:#?}");

    let mut pty = Pty::start(&mut fixture.program.command(&["top"]), "dumb")?;
    assert_eq!(pty.wait()?, 2, "{}", pty.written());
    pty.until("why", |written| written.contains("TERM=dumb"))?;

    let mut command = fixture.program.command(&["top", "--interval", "0.1"]);
    let printed = finish(&mut command)?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    Ok(())
}

/// What a slow line has to carry: bytes written in half a minute, with nothing going on, and with
/// pings and transfers that change all the time in both tunnels.
#[test]
fn little_is_written() -> Result<()> {
    const LOOK: Duration = Duration::from_secs(30);
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let mut pty = begin(&fixture)?;
    let (before, began) = (pty.written().len(), Instant::now());
    let passed = || Ok(began.elapsed());
    wait::until("a look", 2 * LOOK, passed, |passed| *passed >= LOOK)?;
    let idle = pty.written().len() - before;

    let outside = fixture.lab.outside();
    let addresses = fixture.lab.tunnels().each_ref().map(|t| t.plan.address);
    let streams = addresses.map(|to| PingStream::start(outside, to, Duration::from_millis(10)));
    let (before, began) = (pty.written().len(), Instant::now());
    for number in (1..=13).cycle() {
        for (to, size) in addresses.into_iter().zip([number, 14 - number]) {
            probe::tcp_transfer(outside, to, size * 20_000, size * 7_000, LOOK)?;
        }
        if began.elapsed() >= LOOK {
            break;
        }
    }
    let busy = pty.written().len() - before;
    println!("written in 30 s: {idle} bytes idle, {busy} busy");
    assert!(idle < 1_500, "idle: {idle}");
    assert!((idle..8_000).contains(&busy), "idle: {idle}, busy: {busy}");
    for stream in streams {
        stream?.stop()?;
    }
    pty.key(b"q")?;
    assert_eq!(pty.wait()?, 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
