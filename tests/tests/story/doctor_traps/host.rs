//! Features of the kernel, and leftovers of an earlier run or in the file system.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel::no_subtrees;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::mounts::Mounts;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Hook, finish};

use super::{apply, fix, is_fixed, trap, traps};
use crate::fixture::Fixture;

const SUBTREES: &str = "rule_mode = \"subtrees\"\n";

/// Pins of another version are taken over by the daemon (`run`), or removed (`down`).
#[test]
fn pins_of_another_version() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let (pins, version) = (fixture.pins()?, fixture.layout_dir()?);
    for command in ["run", "down"] {
        assert_eq!(fixture.start()?.stop()?, 0);
        assert!(traps(&fixture, "pins")?.is_empty());
        fs::rename(&version, pins.join("v2")).context("have them be another version's")?;
        let found = trap(&fixture, "pins", "note")?;
        assert!(found["detail"].as_str().is_some_and(|d| d.contains(" v2 ")));
        let told = fix(&found)?;
        assert!(told.contains(&format!("sixxs {command} ")), "{told}");
        match command {
            "run" => assert_eq!(fixture.start()?.stop()?, 0),
            other => drop(fixture.program.run_ok(&[other])?),
        }
        assert!(traps(&fixture, "pins")?.is_empty());
    }
    Ok(())
}

/// The kernel may lack the source-specific routes that `rule_mode = "subtrees"` needs.
#[test]
fn a_kernel_without_subtrees() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, SUBTREES)?;
    let found = || {
        let mut doctor = fixture.program.command(&["doctor", "--json"]);
        let refused = no_subtrees::simulate(&mut doctor)?;
        let found = found_by(&mut doctor, "subtrees")?;
        anyhow::Ok((found, refused.load(Ordering::Relaxed)))
    };
    // The real kernel has them.
    assert!(traps(&fixture, "subtrees")?.is_empty());
    let (trap, refused) = found()?;
    let trap = trap.context("nothing is found")?;
    assert_eq!((&trap["verdict"], refused), (&"bad".into(), 1), "{trap:#}");

    // The daemon reports the problem, and has no problem after the fix.
    let mut run = fixture.program.command(&["run"]);
    let refused = no_subtrees::simulate(&mut run)?;
    let daemon = fixture.program.spawn_as(run)?;
    let status = fixture
        .program
        .status_until("it is said", |status| !status.problems.is_empty())?;
    let refusals = status.problems.iter();
    assert!(
        refusals
            .clone()
            .all(|problem| problem.contains("Invalid argument")),
        "{status:#?}"
    );
    assert!(refused.load(Ordering::Relaxed) > 0);
    // Without these routes the programs catch the replies.
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let fixed = fix(&trap)?;
    let line = fixed.split(", or").next().unwrap_or_default();
    let config = fixture.lab.config(&format!("{line}\n"));
    fixture.lab.write_config(&config)?;
    fixture.program.run_ok(&["reload"])?;
    fixture.wait_until_up()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    assert!(fixture.program.status()?.problems.is_empty());
    assert_eq!(found()?, (None, 0));
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Without a writable state directory, the daemon connects to no broker.
#[test]
fn a_state_directory_that_cannot_be_written_to() -> Result<()> {
    let spec = Spec::native([Kind::SixInFour, Kind::Ayiya]);
    let mut fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    fixture.program.move_to(Mounts::new(fixture.host(), &[])?);
    let state = fixture.lab.paths().state();
    let shown = state.display();
    assert!(traps(&fixture, "state")?.is_empty());

    // A file system that became read-only, as after an error.
    fs::create_dir(&state)?;
    fixture.program.shell(&format!(
        "mount -t tmpfs none {shown}; mount -o remount,ro {shown}"
    ))?;
    let daemon = fixture.start()?;
    let name = fixture.lab.tunnels()[1].plan.interface;
    let status = fixture.program.status_until("it is said", |status| {
        status
            .tunnel(name)
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("Read-only"))
    })?;
    assert_ne!(status.tunnel(name).state, "up");
    is_fixed(&fixture, "state", "bad")?;
    fixture.program.run_ok(&["restart", name])?;
    fixture.wait_until_up()?;
    assert_eq!(daemon.stop()?, 0);

    // A file in place of the directory.
    fixture
        .program
        .shell(&format!("umount {shown}; rmdir {shown}; touch {shown}"))?;
    is_fixed(&fixture, "state", "bad")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// If the user who runs the doctor may not write there, the doctor does not conclude that the daemon cannot.
#[test]
fn an_unprivileged_doctor_only_notes_the_state_directory() -> Result<()> {
    let spec = Spec::native([Kind::SixInFour, Kind::SixInFour]);
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    fs::create_dir(fixture.lab.paths().state())?;
    // The file contains no secrets.
    fs::set_permissions(fixture.lab.paths().config(), Permissions::from_mode(0o644))?;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let found = found_as(&fixture, &nobody, "state")?.context("it is not said")?;
    assert_eq!(found["verdict"], "note", "{found:#}");
    Ok(())
}

/// A process that may not mount bpffs has no directory for its pins. The fix lets another process mount it.
#[test]
fn a_bpffs_that_cannot_be_mounted_is_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let less = ["--bounding-set=-sys_admin"];
    assert!(traps(&fixture, "pins")?.is_empty());
    let found = found_as(&fixture, &less, "pins")?.context("it is not said")?;
    assert_eq!(found["verdict"], "bad", "{found:#}");
    apply(&fixture, &found)?;
    assert_eq!(found_as(&fixture, &less, "pins")?, None);
    Ok(())
}

/// Native tunnels need TUN devices.
#[test]
fn no_tun_devices() -> Result<()> {
    let spec = Spec::native([Kind::Ayiya, Kind::Ayiya]);
    let mut fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    fixture.program.move_to(Mounts::new(fixture.host(), &[])?);
    assert!(traps(&fixture, "tun")?.is_empty());
    fixture.program.shell("mount -t tmpfs none /dev/net")?;
    let found = trap(&fixture, "tun", "bad")?;
    assert!(fix(&found)?.contains("pass /dev/net/tun on to it"));
    // The software that starts a container does this, or udev after the module is loaded.
    fixture.program.shell("mknod /dev/net/tun c 10 200")?;
    assert!(traps(&fixture, "tun")?.is_empty());
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The doctor's finding on a subject, other than `good`, when setpriv(1) starts it with these options.
fn found_as(fixture: &Fixture, options: &[&str], about: &str) -> Result<Option<Value>> {
    let mut doctor = fixture.host().command("setpriv");
    fixture.program.apply_environment(&mut doctor);
    doctor
        .args(options)
        .arg(fixture.program.binary())
        .args(["doctor", "--json"]);
    found_by(&mut doctor, about)
}

fn found_by(doctor: &mut Command, about: &str) -> Result<Option<Value>> {
    let report: Value = serde_json::from_str(&finish(doctor)?.stdout)?;
    let findings = report["findings"].as_array().context("findings")?;
    let is_it = |finding: &&Value| finding["about"] == about && finding["verdict"] != "good";
    Ok(findings.iter().find(is_it).cloned())
}
