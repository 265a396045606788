//! `sixxs top` on terminals of several sizes: screens and keys.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::PingStream;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::terminal::tmux::{PROMPT, Tmux};

use crate::fixture::Fixture;

/// Starts `sixxs top` in a terminal of this size, and waits for its first screen.
fn begin(fixture: &Fixture, size: (u16, u16), environment: &[&str]) -> Result<Tmux> {
    let binary = fixture.program.binary().display().to_string();
    begin_as(&binary, fixture, size, environment)
}

/// The same with this command line.
fn begin_as(
    command: &str,
    fixture: &Fixture,
    size: (u16, u16),
    environment: &[&str],
) -> Result<Tmux> {
    let tmux = Tmux::start(fixture.host(), &fixture.program, size, environment)?;
    tmux.line(&format!("{command} top --interval 0.5; echo status=$?"))?;
    tmux.until("the screen is drawn", |screen| {
        screen.contains("sixxs  2 tunnels, all healthy") && screen.contains("sixxs1")
    })?;
    Ok(tmux)
}

fn end(tmux: &Tmux) -> Result<()> {
    tmux.key("q")?;
    let screen = tmux.until("it ends well", |screen| screen.contains("status=0"))?;
    assert!(screen.contains(PROMPT), "the shell's screen: {screen}");
    assert!(!screen.contains("all healthy"), "nothing of ours: {screen}");
    assert_eq!(tmux.asked("alternate_on")?, "0");
    assert_eq!(tmux.asked("cursor_flag")?, "1");
    Ok(())
}

/// The words of an interface's line.
fn row(screen: &str, name: &str) -> Vec<String> {
    let row = screen.lines().find_map(|line| {
        let words = line.trim_start_matches(['▸', '>']).split_whitespace();
        let rest = || words.map(str::to_owned).collect::<Vec<_>>();
        line.trim_start_matches(['▸', '>', ' '])
            .starts_with(&format!("{name} "))
            .then(rest)
    });
    row.unwrap_or_default()
}

fn names(screen: &str) -> Vec<&str> {
    let words = screen.split_whitespace();
    let words = words.map(|word| word.trim_start_matches('▸'));
    let tunnel = |word: &&str| ["sixxs0", "sixxs1"].contains(word);
    words.filter(tunnel).take(2).collect()
}

/// Each of these sizes shows as much as fits.
#[test]
fn at_several_sizes() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [first, _] = fixture.lab.tunnels();
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.plan.address,
        Duration::from_millis(20),
    )?;
    for size in [(80, 24), (132, 43), (40, 12)] {
        let tmux = begin(&fixture, size, &[])?;
        let rates = |screen: &str| {
            let row = row(screen, "sixxs0");
            // `0 B` would be two words.
            let positive = |at: usize| row.get(at).is_some_and(|rate| rate.ends_with("kB"));
            positive(2) && positive(3)
        };
        let screen = tmux.until("bytes come and go", rates)?;
        assert_eq!(row(&screen, "sixxs0")[1], "up", "{screen}");
        for line in screen.lines() {
            assert!(line.chars().count() <= size.0.into(), "{line}");
        }
        if size.0 >= 80 {
            let row = row(&screen, "sixxs0");
            assert!(row.contains(&"100%".to_owned()), "{screen}");
            assert!(row.contains(&"now".to_owned()), "{screen}");
            assert!(screen.contains("2001:db8:a::2"), "the detail: {screen}");
            assert!(screen.contains("net0"), "{screen}");
        }
        tmux.key("?")?;
        tmux.until("help", |screen| screen.contains("next sort column"))?;
        tmux.key("Escape")?;
        tmux.until("no help", |screen| !screen.contains("next sort column"))?;
        end(&tmux)?;
    }
    pings.stop()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn keys_and_sizes_that_change() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let tmux = begin(&fixture, (80, 24), &[])?;

    // Order: by name, then reversed.
    tmux.key("s")?;
    let screen = tmux.until("sorted", |screen| screen.contains("sort:name"))?;
    assert_eq!(names(&screen), ["sixxs0", "sixxs1"], "{screen}");
    tmux.key("S")?;
    let screen = tmux.until("reversed", |screen| screen.contains("sort:-name"))?;
    assert_eq!(names(&screen), ["sixxs1", "sixxs0"], "{screen}");

    // The selection stays on this tunnel. It is stopped only after confirmation.
    tmux.key("Home")?;
    tmux.until("sixxs1 is selected", |screen| screen.contains("▸sixxs1"))?;
    tmux.key("d")?;
    tmux.until("the question", |screen| screen.contains("stop sixxs1? y/n"))?;
    tmux.key("n")?;
    tmux.until("not stopped", |screen| {
        screen.contains("sixxs1 is not stopped") && row(screen, "sixxs1")[1] == "up"
    })?;
    tmux.key("d")?;
    tmux.until("the question", |screen| screen.contains("stop sixxs1? y/n"))?;
    tmux.key("y")?;
    tmux.until("it is down", |screen| row(screen, "sixxs1")[1] == "down")?;
    assert_eq!(fixture.program.status()?.tunnel("sixxs1").state, "down");
    tmux.key("u")?;
    tmux.until("it is up", |screen| row(screen, "sixxs1")[1] == "up")?;
    tmux.key("r")?;
    tmux.until("restarted", |screen| screen.contains("sixxs1 restarted"))?;

    // The terminal changes its size while it runs.
    for size in [(132, 43), (40, 12), (20, 5), (80, 24)] {
        tmux.resize(size)?;
        let fits =
            |screen: &str| screen.lines().count() <= size.1.into() && screen.contains("▸sixxs1");
        tmux.until("drawn anew", fits)?;
    }
    // The next key clears the message.
    tmux.key("Escape")?;
    tmux.until("whole again", |screen| screen.contains("q quit"))?;

    // The screen does not change while paused.
    tmux.key("p")?;
    tmux.until("paused", |screen| screen.contains("PAUSED"))?;
    tmux.key("p")?;
    tmux.until("no more", |screen| !screen.contains("PAUSED"))?;
    end(&tmux)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Users who may only read get an error for keys that would change something, and nothing changes.
#[test]
fn users_who_are_not_root_change_nothing() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    // Any group works for this test.
    let run = fixture.program.command(&["--group", "daemon", "run"]);
    let daemon = fixture.program.start_as(run)?;
    fixture.wait_until_up()?;
    // A copy that all users may execute, independent of the build directory.
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    let member = "setpriv --reuid=65534 --regid=daemon --clear-groups";
    let command = format!("{member} {}", copy.display());
    let tmux = begin_as(&command, &fixture, (80, 24), &[])?;
    for (keys, verb) in [
        (&["u"][..], "start"),
        (&["d", "y"], "stop"),
        (&["r"], "restart"),
    ] {
        for key in keys {
            tmux.key(key)?;
        }
        let refusal = format!("{verb} sixxs0: only root may change anything");
        tmux.until("it is refused", |screen| screen.contains(&refusal))?;
    }
    for name in ["sixxs0", "sixxs1"] {
        assert_eq!(fixture.program.status()?.tunnel(name).state, "up");
    }
    let alerts = fixture.program.run_ok(&["alerts"])?.stdout;
    assert!(!alerts.contains(": down"), "{alerts}");
    end(&tmux)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn leaks_and_their_alerts() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let tmux = begin(&fixture, (80, 24), &[])?;
    let [first, second] = fixture.lab.tunnels();
    let cause = Cause::Device(UPLINK);
    let socket = leak::udp_socket(fixture.host(), first.plan.address, cause)?;
    leak::send(&socket, OUTSIDE, 7, 100)?;
    // Number of times that the screen shows the fix, wherever its lines break.
    let cures = |screen: &str| {
        let words: Vec<_> = screen.split_whitespace().collect();
        words.join(" ").matches("not to net0").count()
    };
    tmux.until("the leak is told, with its cure", |screen| {
        screen.contains("7 packets") && screen.contains("leaked to net0") && cures(screen) == 1
    })?;
    tmux.until("it is counted", |screen| {
        row(screen, "sixxs0").iter().any(|word| word == "7")
            && row(screen, "net0").iter().any(|word| word == "7")
    })?;
    // The newest alert is complete, older ones are shortened. A key shows all of them completely.
    let socket = leak::udp_socket(fixture.host(), second.plan.address, cause)?;
    leak::send(&socket, OUTSIDE, 8, 100)?;
    tmux.until("another one is told", |screen| {
        screen.contains("8 packets") && screen.contains("7 packets") && cures(screen) == 1
    })?;
    tmux.key("a")?;
    tmux.until("both are whole", |screen| cures(screen) == 2)?;
    tmux.key("a")?;
    tmux.until("back", |screen| cures(screen) == 1)?;
    end(&tmux)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// No colours and only ASCII, if the environment requests that.
#[test]
fn plain_terminals() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let tmux = begin(&fixture, (80, 24), &["NO_COLOR=1", "LC_ALL=C"])?;
    let screen = tmux.screen()?;
    assert!(screen.is_ascii(), "{screen}");
    assert!(screen.contains(">sixxs0"), "{screen}");
    let colours = |text: &str| {
        let mut sequences = text.split("\x1b[").skip(1);
        sequences.any(|rest| {
            let (numbers, _) = rest.split_once('m').unwrap_or_default();
            // 39 is the terminal's default colour.
            let mut numbers = numbers.split(';').filter_map(|number| number.parse().ok());
            numbers.any(|number: u32| (31..=37).contains(&number))
        })
    };
    let screen = tmux.coloured_screen()?;
    assert!(!colours(&screen), "{screen:?}");
    end(&tmux)?;
    let tmux = begin(&fixture, (80, 24), &[])?;
    let screen = tmux.coloured_screen()?;
    assert!(colours(&screen), "or the test sees nothing: {screen:?}");
    end(&tmux)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// `top` reports that the daemon is gone, and reconnects to the next one.
#[test]
fn daemon_gone_and_back() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let tmux = begin(&fixture, (80, 24), &[])?;
    assert_eq!(daemon.stop()?, 0);
    tmux.until("it is missed", |screen| {
        screen.contains("DAEMON UNREACHABLE since") && screen.contains("it is not running")
    })?;
    // An impossible action is reported, and `top` continues.
    tmux.key("u")?;
    tmux.until("refused", |screen| {
        screen.contains("start sixxs0: no daemon answers")
    })?;
    let daemon = fixture.start()?;
    tmux.until("it is back", |screen| screen.contains("all healthy"))?;
    end(&tmux)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
