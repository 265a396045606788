//! Tunnels of kind `command`: a configured program creates and deletes the interface.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use sixxs_tests::lab::Lab;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::snapshot::{assert_same, take};
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit for a command, and for the pause between attempts.
const LONG: Duration = Duration::from_secs(60);

/// Makes the interface and configures it, as tunnel programs do.
const MAKES: &str = "
ip link add made0 mtu 1400 type veth peer name far0
ip link set far0 up
ip address add 2001:db8:c::2/64 dev made0 nodad
ip link set made0 up
";

/// The first tunnel is a veth pair that the commands make. There is no broker: the pair's far end stays in
/// the host.
fn config(lab: &Lab, up: &str) -> String {
    config_with(lab, up, r#"["ip", "link", "delete", "made0"]"#)
}

fn config_with(lab: &Lab, up: &str, down: &str) -> String {
    let interfaces = lab.config("");
    let kind = format!("kind = \"command\"\nup = {up}\ndown = {down}\n");
    let tunnel = format!(
        "\n[[tunnel]]\nname = \"made0\"\n{kind}\
         address = \"2001:db8:c::2/64\"\npeer = \"2001:db8:c::1\"\nmtu = 1400\n\
         gateway = \"fe80::1\"\n"
    );
    interfaces + &tunnel
}

/// A command that runs a script.
fn script(lines: &str) -> String {
    format!("[\"sh\", \"-euc\", \'\'\'\n{lines}\n\'\'\']")
}

fn interface_is_there(fixture: &Fixture) -> Result<bool> {
    Ok(fixture.host().sh("ip -o link show")?.contains("made0"))
}

#[test]
fn start_and_stop_run_the_commands() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let before = take(&fixture.lab)?;
    fixture
        .lab
        .write_config(&config(&fixture.lab, &script(MAKES)))?;
    let daemon = fixture.start()?;
    let what = "the command has made the interface";
    fixture
        .program
        .status_until(what, |status| status.tunnel("made0").ifindex.is_some())?;
    assert!(interface_is_there(&fixture)?);
    let status = fixture
        .program
        .status_until("routing is in place", |status| {
            status.tunnel("made0").routing == "in_place"
        })?;
    assert_eq!(status.tunnel("made0").kind, "command");
    assert!(fixture.own_rules()?.contains("2001:db8:c::2"));
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }

    fixture.program.ok(&["stop", "made0"])?;
    fixture.program.status_until("it is down", |status| {
        status.tunnel("made0").state == "down"
    })?;
    assert!(!interface_is_there(&fixture)?);
    fixture.program.ok(&["start", "made0"])?;
    let made = || interface_is_there(&fixture);
    wait::until("it is made again", Duration::from_secs(5), made, |there| {
        *there
    })?;
    fixture.program.status_until("it is back", |status| {
        status.tunnel("made0").ifindex.is_some()
    })?;
    fixture.program.ok(&["restart", "made0"])?;
    fixture.program.status_until("it is back", |status| {
        status.tunnel("made0").ifindex.is_some()
    })?;
    let nobody = fixture.program.run(&["stop", "nobody"])?;
    assert!(
        nobody.code != 0 && nobody.stderr.contains("nobody"),
        "{nobody:#?}"
    );

    fixture.program.ok(&["stop", "made0"])?;
    fixture.program.ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

#[test]
fn a_command_that_fails_is_told() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    for (up, reason) in [
        (
            r#"["ip", "link", "add", "made0", "type", "nonsense"]"#,
            "ip",
        ),
        (r#"["/no/such/program"]"#, "/no/such/program"),
        (r#"["sh", "-c", "echo out of order >&2; exit 7"]"#, "7"),
    ] {
        fixture.lab.write_config(&config(&fixture.lab, up))?;
        // The other tunnels are not affected.
        let daemon = fixture.start()?;
        let status = fixture
            .program
            .status_until("it is seen as failed", is_failed)?;
        let tunnel = status.tunnel("made0");
        assert!(
            tunnel.reason.as_ref().is_some_and(|r| r.contains(reason)),
            "{tunnel:#?}"
        );
        assert!(!status.healthy);
        assert!(status.tunnel("sixxs0").is_whole() && status.tunnel("sixxs1").is_whole());
        let printed = fixture.program.run(&["status"])?;
        assert_eq!(printed.code, 3);
        assert!(printed.stdout.contains("failed"), "{printed:#?}");
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}

/// The file that the commands write to, in the lab's directory.
struct Notes(PathBuf);

impl Notes {
    fn of(lab: &Lab) -> Self {
        Self(lab.paths().base().join("notes"))
    }

    /// A command's script; `$notes` in it is the file.
    fn script(&self, lines: &str) -> String {
        script(&format!("notes={}\n{lines}", self.0.display()))
    }

    fn read(&self) -> Result<String> {
        match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("read {}", self.0.display())),
        }
    }

    fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        wait::until(what, LONG, || self.read(), |notes| good(notes))
    }
}

fn is_up(status: &Status) -> bool {
    status.tunnel("made0").state == "up"
}

fn is_failed(status: &Status) -> bool {
    status.tunnel("made0").state == "failed"
}

#[test]
fn background_processes_of_up_keep_running() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    // It ends when the notes are removed, at the end of the test.
    let left_behind = "(while [ -e $notes ]; do
        echo chatter >&2; echo beat >> $notes; sleep 0.05; done) &";
    let up = notes.script(&format!("{MAKES}: > $notes\n{left_behind}"));
    fixture.lab.write_config(&config(&fixture.lab, &up))?;
    let daemon = fixture.start()?;
    fixture.program.status_until("it is up", is_up)?;
    notes.until("it goes on", |notes| notes.lines().count() >= 20)?;
    assert_eq!(daemon.stop()?, 0);
    let before = notes.read()?.lines().count();
    notes.until("it goes on without the daemon", |notes| {
        notes.lines().count() >= before + 20
    })?;
    fs::remove_file(&notes.0)?;
    Ok(())
}

#[test]
fn the_last_line_of_much_output_is_told() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(
        r"yes chatter | head -c 300000 >&2
          echo went on >> $notes
          printf 'the \033[1mlast\a line\n\n' >&2
          exit 7",
    );
    fixture.lab.write_config(&config(&fixture.lab, &up))?;
    let daemon = fixture.start()?;
    let status = fixture
        .program
        .status_until("it is seen as failed", is_failed)?;
    let reason = status.tunnel("made0").reason.clone().context("a reason")?;
    assert!(
        reason.ends_with("exit status: 7: the  [1mlast  line"),
        "{reason:?}"
    );
    assert!(!reason.contains(char::is_control), "{reason:?}");
    assert_eq!(notes.read()?, "went on\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// `up` and its child hold a lock while they run. `down` writes whether the lock is free.
#[test]
fn up_is_gone_with_its_children_before_down_is_run() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(
        "exec 9> $notes.lock
         flock 9
         echo up >> $notes
         (trap : TERM; sleep 300; sleep 300)",
    );
    let down = notes.script("flock --nonblock $notes.lock echo free >> $notes");
    let config = config_with(&fixture.lab, &up, &down);
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    notes.until("up is at work", |notes| notes == "up\n")?;
    let status = fixture.program.status()?;
    assert_eq!(status.tunnel("made0").state, "connecting");
    fixture.program.ok(&["stop", "made0"])?;
    assert_eq!(notes.read()?, "up\nfree\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn the_daemon_waits_for_up_at_its_end() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(&format!("echo begun >> $notes; sleep 1; {MAKES}"));
    fixture.lab.write_config(&config(&fixture.lab, &up))?;
    let daemon = fixture.start()?;
    notes.until("up is at work", |notes| notes == "begun\n")?;
    assert_eq!(daemon.stop()?, 0);
    assert!(interface_is_there(&fixture)?);
    // The next daemon takes the interface over as it is.
    let daemon = fixture.start()?;
    fixture.program.status_until("it is up", is_up)?;
    assert_eq!(notes.read()?, "begun\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_second_sigterm_ends_the_daemon_at_once() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(
        "exec 9> $notes.lock
         flock 9
         echo begun >> $notes
         sleep 300",
    );
    fixture.lab.write_config(&config(&fixture.lab, &up))?;
    let daemon = fixture.start()?;
    notes.until("up is at work", |notes| notes == "begun\n")?;
    daemon.signal(Signal::SIGTERM)?;
    let log = || Ok(daemon.log());
    wait::until("the first is heard", LONG, log, |log| {
        log.contains("ending")
    })?;
    assert_eq!(daemon.stop()?, 0);
    let lock = format!("flock --timeout 5 {}.lock true", notes.0.display());
    fixture.host().sh(&lock).context("up is gone as well")?;
    Ok(())
}

#[test]
fn the_daemon_waits_for_down_at_its_end() -> Result<()> {
    for by_request in [false, true] {
        let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
        let notes = Notes::of(&fixture.lab);
        let down = notes.script(
            "echo begun >> $notes
             sleep 1
             ip link delete made0
             echo done >> $notes",
        );
        let config = config_with(&fixture.lab, &script(MAKES), &down);
        fixture.lab.write_config(&config)?;
        let daemon = fixture.start()?;
        fixture.program.status_until("it is up", is_up)?;
        thread::scope(|scope| {
            // Timing decides whether the client gets the outcome, or only the end of the daemon.
            scope.spawn(|| fixture.program.run(&["stop", "made0"]));
            notes.until("down is at work", |notes| notes == "begun\n")?;
            if by_request {
                fixture.program.ok(&["down"])?;
                assert_eq!(daemon.wait()?, 0);
            } else {
                assert_eq!(daemon.stop()?, 0);
            }
            assert_eq!(notes.read()?, "begun\ndone\n");
            assert!(!interface_is_there(&fixture)?);
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// A reload adds a tunnel, and has to wait for the `down` of another one first. Calls `meanwhile` during the
/// wait; `is_right` holds afterwards.
fn during_a_reload_that_waits(
    fixture: &Fixture,
    notes: &Notes,
    added: &str,
    meanwhile: impl FnOnce() -> Result<()>,
    is_right: impl Fn(&Status) -> bool,
) -> Result<()> {
    let down = notes.script("echo begun >> $notes; sleep 1; ip link delete made0");
    let before = config_with(&fixture.lab, &script(MAKES), &down);
    fixture.lab.write_config(&before)?;
    let daemon = fixture.start()?;
    fixture.program.status_until("it is up", is_up)?;
    let address = "address = \"2001:db8:d::2/64\"";
    let tunnel = format!("\n[[tunnel]]\nname = \"new0\"\n{added}\n{address}\n");
    fixture
        .lab
        .write_config(&(fixture.lab.config("") + &tunnel))?;
    thread::scope(|scope| {
        let reload = scope.spawn(|| fixture.program.ok(&["reload"]));
        notes.until("down is at work", |notes| notes == "begun\n")?;
        meanwhile()?;
        reload.join().ok().context("the client panicked")??;
        anyhow::Ok(())
    })?;
    fixture
        .program
        .status_until("the reload is over", is_right)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Until the other tunnel is down, the new one is configured and has no driver.
#[test]
fn status_works_while_a_reload_waits_for_down() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let meanwhile = || {
        let status = fixture.program.status()?;
        assert_eq!(status.tunnel("new0").state, "down");
        fixture.program.ok(&["counters"])?;
        Ok(())
    };
    let waits = |status: &Status| status.tunnel("new0").state == "waiting";
    during_a_reload_that_waits(&fixture, &notes, "kind = \"interface\"", meanwhile, waits)
}

/// A second reload removes the tunnel that the first one is about to start.
#[test]
fn a_tunnel_that_a_second_reload_removes_does_not_start() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script("echo new >> $notes");
    let added = format!("kind = \"command\"\nup = {up}\ndown = []");
    let meanwhile = || {
        fixture.lab.write_config(&fixture.lab.config(""))?;
        fixture.program.ok(&["reload"])?;
        assert_eq!(fixture.program.status()?.tunnels.len(), 2);
        Ok(())
    };
    let has_two = |status: &Status| status.tunnels.len() == 2;
    during_a_reload_that_waits(&fixture, &notes, &added, meanwhile, has_two)?;
    assert_eq!(notes.read()?, "begun\n");
    Ok(())
}

/// A request stops the tunnel that a reload is about to start.
#[test]
fn a_tunnel_that_is_stopped_before_its_reload_is_done_does_not_start() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script("echo new >> $notes");
    let added = format!("kind = \"command\"\nup = {up}\ndown = []");
    let meanwhile = || {
        fixture.program.ok(&["stop", "new0"])?;
        Ok(())
    };
    let is_down = |status: &Status| status.tunnel("new0").state == "down";
    during_a_reload_that_waits(&fixture, &notes, &added, meanwhile, is_down)?;
    assert_eq!(notes.read()?, "begun\n");
    Ok(())
}

#[test]
fn a_half_made_interface_is_not_taken_over() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    fixture
        .lab
        .write_config(&config(&fixture.lab, &script(MAKES)))?;
    fixture
        .host()
        .sh("ip link add made0 type veth peer name far0")?;
    let daemon = fixture.start()?;
    fixture.program.status_until("it is up", is_up)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn an_interface_that_goes_is_made_again() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(&format!("echo up >> $notes; {MAKES}"));
    fixture.lab.write_config(&config(&fixture.lab, &up))?;
    let daemon = fixture.start()?;
    fixture.program.status_until("it is up", is_up)?;
    fixture.host().sh("ip link delete made0")?;
    notes.until("it is made again", |notes| notes == "up\nup\n")?;
    fixture.program.status_until("it is up again", is_up)?;

    // The next attempt is delayed, and other software may make the interface meanwhile.
    fixture.host().sh("ip link delete made0")?;
    let status = fixture
        .program
        .status_until("it is missed", |status| !is_up(status))?;
    assert_eq!(status.tunnel("made0").state, "waiting", "{status:#?}");
    fixture.host().ip(&MAKES.replace("ip ", ""))?;
    fixture.program.status_until("it is up again", is_up)?;
    assert_eq!(notes.read()?, "up\nup\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The remains of the first attempt would prevent any other attempt.
#[test]
fn after_a_failure_down_is_run_and_then_up() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let notes = Notes::of(&fixture.lab);
    let up = notes.script(
        "echo up >> $notes
         ip link add made0 mtu 1400 type veth peer name far0
         ip link set made0 up
         [ $(grep -c up $notes) = 2 ]
         ip address add 2001:db8:c::2/64 dev made0 nodad",
    );
    let down = notes.script("echo down >> $notes; ip link delete made0");
    let config = config_with(&fixture.lab, &up, &down);
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("it is seen as failed", is_failed)?;
    assert_eq!(notes.read()?, "up\n");
    let status = || fixture.program.status();
    wait::until("it is up", LONG, status, is_up)?;
    assert_eq!(notes.read()?, "up\ndown\nup\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
