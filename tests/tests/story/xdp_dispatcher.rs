//! The XDP program beside one of other software at the same interface, by libxdp's dispatcher.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::kernel::bpf;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::UPLINK;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::{shell, wait};

use crate::fixture::Fixture;
use crate::xdp::{forged_packets_are_counted, state};

/// The variable by which libxdp takes another bpffs.
const BPFFS: &str = "LIBXDP_BPFFS";

/// The name of our program, as far as the kernel keeps it.
const OURS: &str = "sixxs_xdp_share";

const LIMIT: Duration = Duration::from_secs(10);

/// A lab whose uplink has the program of xdp-filter, by a dispatcher.
struct Shared {
    fixture: Fixture,
    bpffs: PathBuf,
}

impl Shared {
    /// `None`: the kernel has no programs that replace functions of other programs, or xdp-filter is missing.
    fn new(mode: &str) -> Result<Option<Self>> {
        let kinds = [Kind::SixInFour, Kind::Ayiya];
        let mut fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
        let bpffs = fixture.lab.paths().pins().with_file_name("bpffs");
        std::fs::create_dir(&bpffs)?;
        let mut mount = Command::new("mount");
        shell::capture(mount.args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
        fixture.program.add_environment([(BPFFS, bpffs.clone())]);
        let shared = Self { fixture, bpffs };
        let loaded = shared.run("xdp-filter", &["load", "--mode", mode, UPLINK]);
        let has = loaded.is_ok()
            && shared
                .programs()?
                .iter()
                .any(|name| name.starts_with("xdpfilt"));
        if !kernel::can_run("xdp_dispatcher", has).with_context(|| format!("{loaded:?}"))? {
            return Ok(None);
        }
        Ok(Some(shared))
    }

    /// Runs a program of xdp-tools in the lab's host.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.fixture.host().command(program);
        shell::capture(command.args(arguments).env(BPFFS, &self.bpffs))
    }

    /// The names of the programs that the dispatcher runs, as libxdp lists them, in their order.
    fn programs(&self) -> Result<Vec<String>> {
        let shown = self.run("xdp-loader", &["status", UPLINK])?;
        // Lines of the programs: an arrow, the priority, the name, the number.
        let lines = shown.lines().map(str::trim_start);
        let programs = lines.filter_map(|line| line.strip_prefix("=>"));
        let name = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        Ok(programs.filter_map(name).collect())
    }

    fn start(&self) -> Result<Daemon> {
        let daemon = self.fixture.start()?;
        self.fixture.wait_until_up().with_context(|| daemon.log())?;
        Ok(daemon)
    }

    /// Waits until the dispatcher runs programs with these beginnings of their names.
    fn wait_for(&self, expected: &[&str]) -> Result<()> {
        let what = format!("the dispatcher runs {expected:?}");
        wait::until(
            &what,
            LIMIT,
            || self.programs(),
            |programs| {
                programs.len() == expected.len()
                    && programs
                        .iter()
                        .zip(expected)
                        .all(|(name, start)| name.starts_with(start))
            },
        )?;
        Ok(())
    }
}

fn programs_run_one_after_the_other(mode: &str, ours: &str) -> Result<()> {
    let Some(shared) = Shared::new(mode)? else {
        return Ok(());
    };
    let fixture = &shared.fixture;
    let daemon = shared.start()?;
    shared
        .wait_for(&["xdpfilt", OURS])
        .with_context(|| daemon.log())?;
    ensure!(state(fixture)? == ours, "{}", state(fixture)?);
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    ensure!(
        screen.contains(&format!(", XDP {ours} (shared)\n")),
        "{screen}"
    );
    forged_packets_are_counted(fixture)?;

    // A new daemon takes the place of the former.
    ensure!(daemon.stop()? == 0);
    shared.wait_for(&["xdpfilt", OURS])?;
    let daemon = shared.start()?;
    shared
        .wait_for(&["xdpfilt", OURS])
        .with_context(|| daemon.log())?;
    forged_packets_are_counted(fixture)?;

    // The other program leaves, and comes back.
    shared.run("xdp-filter", &["unload", UPLINK])?;
    shared.wait_for(&[OURS])?;
    fixture.host().sh("ip link set dev net0 alias changed")?;
    forged_packets_are_counted(fixture)?;
    shared.run("xdp-filter", &["load", "--mode", mode, UPLINK])?;
    shared.wait_for(&["xdpfilt", OURS])?;
    forged_packets_are_counted(fixture)?;

    // `down` leaves the other program.
    let down = fixture.program.run_ok(&["down"])?;
    shared.wait_for(&["xdpfilt"]).context(down.stdout)?;
    drop(daemon);

    // With `off`, ours leaves too.
    let daemon = shared.start()?;
    shared
        .wait_for(&["xdpfilt", OURS])
        .with_context(|| daemon.log())?;
    fixture
        .lab
        .write_config(&fixture.lab.config("xdp = \"off\""))?;
    fixture.program.run_ok(&["reload"])?;
    shared
        .wait_for(&["xdpfilt"])
        .with_context(|| daemon.log())?;
    Ok(())
}

#[test]
fn in_generic_mode() -> Result<()> {
    programs_run_one_after_the_other("skb", "generic")
}

#[test]
fn in_the_driver() -> Result<()> {
    programs_run_one_after_the_other("native", "native")
}

/// The dispatcher is removed by force: ours is attached alone then, if the configuration wants that.
#[test]
fn a_removed_dispatcher() -> Result<()> {
    let Some(shared) = Shared::new("skb")? else {
        return Ok(());
    };
    let fixture = &shared.fixture;
    fixture
        .lab
        .write_config(&fixture.lab.config("xdp = \"generic\""))?;
    let daemon = shared.start()?;
    shared
        .wait_for(&["xdpfilt", OURS])
        .with_context(|| daemon.log())?;
    fixture.host().sh("ip link set dev net0 xdp off")?;
    fixture.host().sh("ip link set dev net0 xdpgeneric off")?;
    wait::until(
        "ours is attached alone",
        LIMIT,
        || bpf::xdp(fixture.host(), UPLINK),
        Option::is_some,
    )?;
    forged_packets_are_counted(fixture)?;
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    ensure!(screen.contains(", XDP generic\n"), "{screen}");
    Ok(())
}

/// When the last program is ours and `down` removes it, the interface is free.
#[test]
fn the_last_one_takes_the_dispatcher_along() -> Result<()> {
    let Some(shared) = Shared::new("skb")? else {
        return Ok(());
    };
    let fixture = &shared.fixture;
    let daemon = shared.start()?;
    shared
        .wait_for(&["xdpfilt", OURS])
        .with_context(|| daemon.log())?;
    shared.run("xdp-filter", &["unload", UPLINK])?;
    shared.wait_for(&[OURS])?;
    let down = fixture.program.run_ok(&["down"])?;
    ensure!(
        bpf::xdp(fixture.host(), UPLINK)?.is_none(),
        "{}",
        down.stdout
    );
    let left = std::fs::read_dir(shared.bpffs.join("xdp"))?;
    let left: Vec<_> = left
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    let dispatchers = left
        .iter()
        .filter(|name| name.to_string_lossy().starts_with("dispatch"));
    ensure!(dispatchers.count() == 0, "{left:?}");
    Ok(())
}
