//! `sixxs status` and `sixxs counters`: output and exit status.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::{Hook, finish};
use sixxs_tests::terminal::pty::Pty;
use sixxs_tests::wait;

use crate::fixture::Fixture;

#[test]
fn exit_status() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    for command in [&["status"][..], &["status", "--json"]] {
        let printed = fixture.program.run(command)?;
        assert_eq!(printed.code, 4, "no daemon: {printed:#?}");
    }
    let daemon = fixture.start()?;
    assert_eq!(fixture.program.run(&["status"])?.code, 0);
    fixture.lab.tunnels()[1].delete()?;
    fixture
        .program
        .status_until("it is seen as gone", |status| !status.healthy)?;
    assert_eq!(fixture.program.run(&["status"])?.code, 3);
    assert_eq!(daemon.stop()?, 0);
    assert_eq!(fixture.program.run(&["status"])?.code, 4);
    Ok(())
}

#[test]
fn one_screen() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let printed = fixture.program.run_ok(&["status"])?;
    assert!(printed.stdout.lines().count() <= 24, "{}", printed.stdout);
    for line in printed.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for word in ["sixxs0", "sixxs1", "net0"] {
        assert!(printed.stdout.contains(word), "{}", printed.stdout);
    }
    assert!(printed.stderr.is_empty(), "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// `status --watch` redraws the screen until Ctrl-C, and `alerts --follow` prints alerts as they happen.
#[test]
fn watch_and_follow_print_continuously() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    let screens = Listener::start(&fixture, &["status", "--watch"])?;
    let alerts = Listener::start(&fixture, &["alerts", "--follow"])?;
    // A pipe has no cursor: the screens follow each other.
    screens.until("two screens", |text| {
        text.starts_with("sixxs0 ") && text.contains(" corrections\n\nsixxs0 ")
    })?;
    alerts.until("alerts of before", |text| text.contains("sixxs0: up"))?;

    let cause = Cause::Device(UPLINK);
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
    leak::send(&socket, OUTSIDE, 3, 100)?;
    alerts.until("an alert as it happens", |text| {
        text.contains("bound to net0")
    })?;
    screens.until("a leak on the screen", |text| {
        text.contains(" 3 redirected")
    })?;
    assert!(!screens.text().contains('\x1b'), "{}", screens.text());
    assert_eq!(daemon.stop()?, 0);
    assert_eq!(
        alerts.end()?,
        (1, "sixxs: the daemon has ended\n".to_owned())
    );
    Ok(())
}

/// A terminal that supports it shows them in place.
#[test]
fn on_terminals() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    for (kind, draws) in [("xterm", true), ("dumb", false)] {
        let arguments = ["status", "--watch"];
        let pty = Pty::start(&mut fixture.program.command(&arguments), kind)?;
        pty.until("two screens", |written| {
            written.matches("all tunnels healthy").count() >= 2
        })?;
        assert_eq!(pty.written().contains("\x1b[H"), draws, "{kind}");
        assert_eq!(pty.written().contains('\x1b'), draws, "{kind}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A command that continues, and its output.
struct Listener {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Listener {
    fn start(fixture: &Fixture, arguments: &[&str]) -> Result<Self> {
        let mut command = fixture.program.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        let printed = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&printed);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                to.lock().expect("no panic before").push_str(&text);
            }
        });
        Ok(Self { child, printed })
    }

    fn text(&self) -> String {
        self.printed.lock().expect("no panic before").clone()
    }

    /// Waits for its end. Returns its exit status and its errors.
    fn end(mut self) -> Result<(i32, String)> {
        let child = &mut self.child;
        let ended = || Ok(child.try_wait()?.and_then(|status| status.code()));
        let code = wait::until("its end", Duration::from_secs(10), ended, Option::is_some)?;
        let mut complaint = String::new();
        let mut stderr = self.child.stderr.take().context("stderr is piped")?;
        stderr.read_to_string(&mut complaint)?;
        Ok((code.context("a code")?, complaint))
    }

    fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        let printed = || Ok(self.text());
        let good = |text: &String| good(text);
        wait::until(what, Duration::from_secs(10), printed, good).map(drop)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself, with the daemon.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn counters_per_interface() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let printed = fixture.program.run_ok(&["counters"])?;
    for interface in ["net0", "sixxs0", "sixxs1"] {
        assert!(printed.stdout.contains(interface), "{}", printed.stdout);
    }
    let (code, values) = fixture.program.json(&["counters"])?;
    assert_eq!(code, 0);
    assert!(!values.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Each global option is also an environment variable. The other tests use the variables.
#[test]
fn options_on_the_command_line() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let mut arguments = Vec::new();
    for (variable, value) in fixture.program.environment() {
        let name = variable
            .trim_start_matches("SIXXS_")
            .to_lowercase()
            .replace('_', "-");
        arguments.push(format!("--{name}={}", value.display()));
    }
    let mut command = fixture.host().command(fixture.program.binary());
    command
        .env_clear()
        .args(&arguments)
        .args(["status", "--json"]);
    let printed = finish(&mut command)?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    // After the command they have the same meaning.
    let mut command = fixture.host().command(fixture.program.binary());
    command
        .env_clear()
        .args(["status", "--json"])
        .args(&arguments);
    let printed = finish(&mut command)?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Without `uplinks` in the configuration, the interface with the default route is the uplink.
#[test]
fn uplinks_are_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    assert!(!config.contains("uplinks"));
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    let uplinks: Vec<&str> = status
        .uplinks
        .iter()
        .map(|uplink| uplink.name.as_str())
        .collect();
    assert_eq!(uplinks, ["net0"]);
    daemon.kill()?;
    fixture.delete_own_rules()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()
}
