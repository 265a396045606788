//! The history: every minute is recorded, an outage is shown with its reason, and neither a crash nor a damaged file nor a full
//! disk costs more than the last minutes.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::chaos::clock;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Daemon, Hook, Output, finish};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Limit for an observation by the daemon, which comes every ten seconds, and to write its record.
const OBSERVED: Duration = Duration::from_secs(25);

/// Lines of CSV for the first tunnel, by time, as columns by name.
type Lines = BTreeMap<String, BTreeMap<String, String>>;

/// The daemon's clock. It shows the first seconds of one minute after the other, some time ago: the command uses the clock of
/// the machine, and shows no minute that has not come yet.
struct MinuteClock<'a> {
    fixture: &'a Fixture,
    minute: u64,
}

impl<'a> MinuteClock<'a> {
    /// Sets the clock of a daemon that was just started, and waits for an observation.
    fn start(fixture: &'a Fixture, minutes_ago: u64) -> Result<Self> {
        let file = fixture.lab.paths().state().join("history/sixxs0.ring");
        // An error means that there is no file yet.
        let written = || Ok(fs::metadata(&file).and_then(|file| file.modified()).ok());
        let before = written()?;
        let clock = Self::set_back(fixture, minutes_ago)?;
        // The change of the clock has ended the minute of the start.
        wait::until("it is recorded", OBSERVED, written, |now| *now != before)?;
        Ok(clock)
    }

    /// Sets the clock of a daemon that was just started.
    fn set_back(fixture: &'a Fixture, minutes_ago: u64) -> Result<Self> {
        // The daemon observes its tunnels when it starts. After these requests it has handled that event too.
        for _ in 0..20 {
            fixture.program.status()?;
        }
        let clock = Self {
            fixture,
            minute: unix_seconds()? / 60 - minutes_ago,
        };
        clock.set()?;
        Ok(clock)
    }

    /// Sets the clock to the first second of the minute, and makes the daemon look at the host.
    fn set(&self) -> Result<()> {
        let wanted = i64::try_from(self.minute * 60 + 1)?;
        let displacement = wanted - i64::try_from(unix_seconds()?)?;
        clock::displace(self.fixture.lab.paths(), displacement, 0)?;
        for verb in ["add", "del"] {
            let host = self.fixture.host();
            host.sh(&format!("ip -6 address {verb} 2001:db8:fff::1/128 dev lo"))?;
        }
        Ok(())
    }

    /// Begins the next minute. Returns the one that has ended.
    fn advance(&mut self) -> Result<u64> {
        self.minute += 1;
        self.set()?;
        Ok(self.minute - 1)
    }

    /// Begins the next minute, and waits until the daemon has observed that. Returns the record of the minute that has ended.
    fn next(&mut self) -> Result<BTreeMap<String, String>> {
        let ended = self.advance()?;
        let time = time(self.fixture, ended)?;
        let lines = || lines(self.fixture);
        let lines = wait::until("the minute is recorded", OBSERVED, lines, |lines| {
            lines.contains_key(&time)
        })?;
        lines.get(&time).cloned().context("it was there")
    }
}

fn unix_seconds() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// The begin of a minute, as the commands show it.
fn time(fixture: &Fixture, minute: u64) -> Result<String> {
    let date = format!("date -u -d @{} +%FT%TZ", minute * 60);
    Ok(fixture.host().sh(&date)?.trim().to_owned())
}

/// What `sixxs history --csv` shows for the first tunnel.
fn lines(fixture: &Fixture) -> Result<Lines> {
    let text = fixture.program.run_ok(&["history", "--csv"])?.stdout;
    let mut lines = text.lines();
    let columns: Vec<_> = lines.next().context("a header")?.split(',').collect();
    let name = fixture.lab.tunnels()[0].plan.interface;
    let mut found = Lines::new();
    for line in lines {
        let fields = line.split(',').map(str::to_owned);
        let columns = columns.iter().map(|column| (*column).to_owned());
        let line: BTreeMap<_, _> = columns.zip(fields).collect();
        if line["tunnel"] == name {
            found.insert(line["time"].clone(), line);
        }
    }
    Ok(found)
}

fn start(fixture: &Fixture) -> Result<Daemon> {
    let daemon = fixture
        .program
        .start_as(fixture.program.command(&clock::MOVABLE))?;
    fixture.wait_until_up()?;
    Ok(daemon)
}

/// Runs `sixxs history` in a locale.
fn shown(fixture: &Fixture, locale: &str, arguments: &[&str]) -> Result<Output> {
    let arguments = [&["history"], arguments].concat();
    let mut command = fixture.program.command(&arguments);
    finish(command.env("LC_ALL", locale))
}

/// The history of the first tunnel as JSON.
fn report(fixture: &Fixture, since: &str) -> Result<serde_json::Value> {
    let name = fixture.lab.tunnels()[0].plan.interface;
    let (code, reports) = fixture.program.json(&["history", name, "--since", since])?;
    ensure!(code == 0, "{reports:?}");
    Ok(reports[0]["tunnels"][0].clone())
}

#[test]
fn an_outage_is_recorded_with_its_reason() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = start(&fixture)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let name = tunnel.plan.interface;
    let mut clock = MinuteClock::start(&fixture, 120)?;
    fixture.ensure_outside_answered(tunnel)?;
    let record = clock.next()?;
    let field = |record: &BTreeMap<String, String>, name: &str| record[name].clone();
    assert_eq!(field(&record, "state"), "up");
    assert_eq!(field(&record, "health"), "healthy");
    assert_eq!(field(&record, "failing_seconds"), "0");
    assert_eq!(field(&record, "answered_percent"), "100");
    assert!(!field(&record, "median_seconds").is_empty(), "{record:?}");

    tunnel.delete()?;
    let health = |wanted: &'static str| {
        fixture.program.status_until(wanted, move |status| {
            status.tunnel(name).health == wanted
                && status.tunnel(name).is_whole() == (wanted == "healthy")
        })
    };
    health("failing")?;
    // The daemon may not have noticed within this minute.
    clock.next()?;
    let begin = clock.minute;
    let record = clock.next()?;
    assert_eq!(field(&record, "state"), "waiting");
    assert_eq!(field(&record, "health"), "failing");
    assert_eq!(field(&record, "failing_seconds"), "60");
    assert_eq!(field(&record, "reason"), "interface missing");
    let present = report(&fixture, "400d")?;
    assert_eq!(
        present["outages"].as_array().map(Vec::len),
        Some(1),
        "{present:#}"
    );

    tunnel.create()?;
    health("healthy")?;
    clock.next()?;
    let record = clock.next()?;
    assert_eq!(field(&record, "failing_seconds"), "0", "{record:?}");

    let found = report(&fixture, "1d")?;
    let outages = found["outages"].as_array().context("outages")?;
    assert_eq!(outages.len(), 1, "{found:#}");
    let outage = &outages[0];
    assert_eq!(outage["reason"], "interface missing");
    assert_eq!(outage["ongoing"], false);
    let is_within = outage["begin"].as_str() <= Some(time(&fixture, begin)?.as_str())
        && outage["end"].as_str() > Some(time(&fixture, begin)?.as_str());
    assert!(is_within, "{found:#}");
    let percent = found["available_percent"].as_f64().context("a share")?;
    assert!(percent > 0.0 && percent < 100.0, "{found:#}");
    assert_eq!(report(&fixture, "90m")?["outages"], serde_json::json!([]));

    outage_is_shown(&fixture, name)?;
    // The files need no daemon.
    let text = shown(&fixture, "C", &[])?;
    assert_eq!(daemon.stop()?, 0);
    assert_eq!(shown(&fixture, "C", &[])?.stdout, text.stdout);
    Ok(())
}

/// The text and the status show the outage of the first tunnel.
fn outage_is_shown(fixture: &Fixture, name: &str) -> Result<()> {
    for (locale, block) in [("C.UTF-8", "▁▂▃▄▅▆▇█"), ("C", "_.:-=+*#")] {
        let output = shown(fixture, locale, &[name])?;
        let text = output.stdout;
        assert_eq!(text.is_ascii(), locale == "C", "{text}");
        let is_block = |c: char| block.contains(c);
        let mut days = text.lines().skip(2).take_while(|line| *line != "outages");
        assert!(days.any(|day| day[10..].contains(is_block)), "{text}");
        let outage = text.lines().last().unwrap_or_default();
        assert!(outage.ends_with(", interface missing"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
    let unknown = shown(fixture, "C", &["sixxs9"])?;
    assert_eq!(unknown.code, 1);
    let told = "no history of \"sixxs9\"; there are sixxs0, sixxs1";
    assert!(unknown.stderr.contains(told), "{unknown:?}");

    let status = fixture.program.status()?;
    let last_day = |name: &str| {
        let tunnel = status.tunnel(name);
        (tunnel.available_percent_24h, tunnel.outages_24h)
    };
    let (percent, outages) = last_day(name);
    assert!(
        percent.is_some_and(|percent| percent < 100.0),
        "{status:#?}"
    );
    assert_eq!(outages, Some(1));
    assert_eq!(last_day("sixxs1"), (Some(100.0), Some(0)));
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    assert!(screen.contains("% available, 1 outage\n"), "{screen}");
    assert!(screen.contains("  24 h      100% available\n"), "{screen}");
    Ok(())
}

#[test]
fn a_kill_costs_the_last_minute() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let nothing = shown(&fixture, "C", &[])?;
    assert_eq!(nothing.code, 0);
    assert!(
        nothing.stdout.starts_with("nothing is recorded yet"),
        "{nothing:?}"
    );
    let daemon = start(&fixture)?;
    let mut clock = MinuteClock::start(&fixture, 120)?;
    for _ in 0..2 {
        clock.next()?;
    }
    let before = lines(&fixture)?;
    assert!(before.len() >= 3, "{before:#?}");
    daemon.kill()?;
    assert_eq!(lines(&fixture)?, before);

    // Later minutes are added.
    let daemon = start(&fixture)?;
    let mut clock = MinuteClock::start(&fixture, 60)?;
    clock.next()?;
    let after = lines(&fixture)?;
    for (time, line) in &before {
        // The minute of the start is recorded again if both were in the same one.
        let is_same = after.get(time) == Some(line);
        ensure!(is_same || line["time"] > self::time(&fixture, clock.minute)?);
    }
    assert!(after.len() > before.len(), "{after:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn damaged_and_foreign_files_are_no_error() -> Result<()> {
    const FOREIGN: &[u8] = b"the history of another program, or of another version";
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let directory = fixture.lab.paths().state().join("history");
    let file = directory.join("sixxs0.ring");
    fs::create_dir_all(&directory)?;
    fs::write(&file, FOREIGN)?;
    let daemon = start(&fixture)?;
    let mut clock = MinuteClock::start(&fixture, 120)?;
    clock.next()?;
    assert_eq!(fs::read(directory.join("sixxs0.ring.old"))?, FOREIGN);
    let log = daemon.log();
    assert!(log.contains("is no history of this version"), "{log}");

    // Everything but the header is damaged.
    let mut bytes = fs::read(&file)?;
    for byte in bytes.iter_mut().skip(16) {
        *byte ^= 0x5a;
    }
    fs::write(&file, &bytes)?;
    assert_eq!(lines(&fixture)?.len(), 0);
    clock.next()?;
    assert_eq!(lines(&fixture)?.len(), 1);

    // The file is removed, then the whole directory.
    fs::remove_file(&file)?;
    clock.next()?;
    fs::remove_dir_all(&directory)?;
    clock.next()?;
    let status = fixture.program.status()?;
    ensure!(status.healthy && status.problems.is_empty(), "{status:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_disk_that_is_full_or_read_only_is_a_problem_and_nothing_else() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let state = fixture.lab.paths().state();
    let shown = state.display();
    let mount = |options: &str| {
        let line = format!("mount -t tmpfs -o {options} tmpfs {shown}");
        fixture.host().sh(&line)
    };
    fs::create_dir(&state)?;
    mount("size=4k")?;
    fs::write(state.join("ballast"), [0; 4096])?;
    let daemon = start(&fixture)?;
    let mut clock = MinuteClock::set_back(&fixture, 120)?;
    let has_problem = |words: &'static str| {
        let status = || fixture.program.status();
        wait::until(words, OBSERVED, status, |status| {
            let problems = &status.problems;
            problems.len() == 1
                && problems[0].starts_with("the history has a gap: ")
                && problems[0].contains(words)
        })
    };
    let is_solved = || {
        let status = || fixture.program.status();
        wait::until("no problem is left", OBSERVED, status, |status| {
            status.problems.is_empty()
        })
    };
    ensure!(has_problem("No space left")?.healthy);
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;

    mount("remount,size=1m")?;
    clock.next()?;
    is_solved()?;
    mount("remount,ro,size=1m")?;
    clock.advance()?;
    ensure!(has_problem("Read-only file system")?.healthy);
    mount("remount,rw,size=1m")?;
    // The minute between is lost, and those before and after are not.
    clock.next()?;
    is_solved()?;
    assert_eq!(lines(&fixture)?.len(), 2);
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let problems = alerts.iter().filter(|alert| alert["kind"] == "problem");
    assert_eq!(problems.count(), 2, "{alerts:#?}");
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
