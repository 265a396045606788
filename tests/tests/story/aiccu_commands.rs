//! The commands of AICCU: two tunnels from two files, each started and stopped alone. One daemon serves
//! both; it starts with the first tunnel and ends with the last.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::probe;
use sixxs_tests::program::{Hook, Output, finish};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// As many connects as this scenario makes.
const CONFIG: &str = "uplinks = [\"net0\"]\n[connect_limit]\nconnects = 20\n";

struct Scenario {
    fixture: Fixture,
    files: [String; 2],
}

/// Ends the daemon and the processes that hold tunnels, also after a failed test.
impl Drop for Scenario {
    fn drop(&mut self) {
        if let Err(error) = self.fixture.program.run(&["down"]) {
            eprintln!("sixxs down: {error:#}");
        }
    }
}

impl Scenario {
    fn new(config: &str) -> Result<Self> {
        let fixture =
            Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
        fixture.lab.write_config(config)?;
        let mut files = Vec::new();
        for index in 0..2 {
            let path = fixture.lab.write_aiccu_conf(index, true)?;
            let text = fs::read_to_string(&path)? + "daemonize true\n";
            fs::write(&path, text)?;
            files.push(path.display().to_string());
        }
        let files = files.try_into().ok().context("two files")?;
        Ok(Self { fixture, files })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.fixture.program.command(&["aiccu"]);
        command
            .args(arguments)
            .env("SIXXS_TLS_CA", self.fixture.lab.paths().tls_ca());
        command
    }

    fn aiccu(&self, verb: &str, index: usize) -> Result<Output> {
        finish(&mut self.command(&[verb, &self.files[index]]))
    }

    fn ok(&self, verb: &str, index: usize) -> Result<String> {
        let printed = self.aiccu(verb, index)?;
        ensure!(printed.code == 0, "aiccu {verb}: {printed:#?}");
        Ok(printed.stdout)
    }

    fn pid(&self, index: usize) -> Result<Pid> {
        let interface = self.fixture.lab.tunnels()[index].plan.interface;
        let path = self.fixture.lab.paths().aiccu_pid(interface);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    fn answers(&self, index: usize) -> Result<()> {
        self.fixture.wait_for_addresses()?;
        let tunnel = &self.fixture.lab.tunnels()[index];
        let address = tunnel.plan.address;
        let pings = probe::ping(self.fixture.lab.outside(), address, 5)?;
        ensure!(
            pings.all_answered(),
            "ping {address}: {pings:?}; broker: {:?}",
            tunnel.broker()?.counts()
        );
        Ok(())
    }

    fn is_as_before(&self) -> Result<()> {
        wait::until(
            "nothing of the program is left on the host",
            Duration::from_secs(10),
            || {
                let rules = self.fixture.own_rules()?;
                let links = self.fixture.host().sh("ip link show")?;
                let run_dir = self.fixture.lab.paths().run().join("control.sock").exists();
                Ok((rules, links.contains(": sixxs"), run_dir))
            },
            |(rules, has_links, has_socket)| rules.is_empty() && !has_links && !has_socket,
        )?;
        Ok(())
    }
}

#[test]
fn each_tunnel_is_started_and_stopped_alone() -> Result<()> {
    let scenario = Scenario::new(CONFIG)?;
    scenario.ok("start", 0)?;
    scenario.answers(0)?;
    let first = scenario.pid(0)?;
    kill(first, None).context("the first tunnel's process lives")?;

    let again = scenario.aiccu("start", 0)?;
    assert_eq!(again.code, 1, "{again:#?}");
    assert!(again.stderr.contains("is running already"), "{again:#?}");

    scenario.ok("start", 1)?;
    scenario.answers(1)?;
    let status = scenario.fixture.program.status()?;
    assert!(status.healthy, "{status:#?}");
    let kinds: Vec<_> = status.tunnels.iter().map(|t| t.kind.as_str()).collect();
    assert_eq!(kinds, ["ayiya", "6in4-heartbeat"]);

    let tunnels = scenario.ok("tunnels", 0)?;
    assert_eq!(tunnels.lines().count(), 2, "{tunnels}");
    assert!(tunnels.contains("2001:db8:a::2"), "{tunnels}");
    assert!(
        scenario.ok("brokers", 0)?.contains("pop"),
        "PoPs are listed"
    );
    let test = scenario.ok("test", 1)?;
    assert!(test.lines().all(|line| line.starts_with("pass")), "{test}");
    scenario.ok("autotest", 0)?;

    scenario.ok("stop", 0)?;
    assert!(scenario.pid(0).is_err(), "the pid file is gone");
    scenario.answers(1)?;
    let test = scenario.aiccu("test", 0)?;
    assert_eq!(test.code, 3, "{test:#?}");
    assert!(test.stdout.contains("FAIL  tunnel"), "{test:#?}");

    // An old script ends the process of the tunnel.
    kill(scenario.pid(1)?, Signal::SIGTERM)?;
    scenario.is_as_before()?;
    let stop = scenario.aiccu("stop", 1)?;
    assert_eq!(stop.code, 1, "{stop:#?}");
    assert!(stop.stderr.contains("is not running"), "{stop:#?}");
    scenario.fixture.ensure_nothing_lost()
}

#[test]
fn it_is_called_as_aiccu_too() -> Result<()> {
    let scenario = Scenario::new(CONFIG)?;
    let alias = scenario.fixture.lab.paths().run().with_file_name("aiccu");
    std::os::unix::fs::symlink(scenario.fixture.program.binary(), &alias)?;
    let mut command = scenario.fixture.host().command(&alias);
    scenario.fixture.program.apply_environment(&mut command);
    let version = finish(command.arg("version"))?;
    assert!(version.stdout.starts_with("sixxs "), "{version:#?}");
    let mut command = scenario.fixture.host().command(&alias);
    scenario.fixture.program.apply_environment(&mut command);
    command.env("SIXXS_TLS_CA", scenario.fixture.lab.paths().tls_ca());
    let started = finish(command.args(["start", &scenario.files[0]]))?;
    assert_eq!(started.code, 0, "{started:#?}");
    scenario.answers(0)
}

#[test]
fn what_does_not_come_about_leaves_nothing_behind() -> Result<()> {
    let scenario = Scenario::new(CONFIG)?;
    let text = fs::read_to_string(&scenario.files[0])?;
    fs::write(
        &scenario.files[0],
        text.replace("password ", "password not-"),
    )?;
    let started = scenario.aiccu("start", 0)?;
    assert_eq!(started.code, 1, "{started:#?}");
    assert!(started.stderr.contains("refuses"), "{started:#?}");
    assert!(!started.stderr.contains("not-"), "{started:#?}");
    assert!(scenario.pid(0).is_err(), "no pid file");
    scenario.is_as_before()?;

    fs::write(&scenario.files[1], "username a\npassword b\nprotocol tsp\n")?;
    let started = scenario.aiccu("start", 1)?;
    assert_eq!(started.code, 2, "{started:#?}");
    assert!(started.stderr.contains("line 3: protocol"), "{started:#?}");
    scenario.is_as_before()
}
