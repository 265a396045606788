//! What the kernel has, and what an earlier run or the file system has in store.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::mounts::Mounts;
use sixxs_tests::program::{Hook, finish};
use sixxs_tests::topology::Flavour;

use super::{fix, is_fixed, trap, traps};
use crate::setting::Setting;

/// What another version pinned is taken over by this one's daemon, or removed.
#[test]
fn pins_of_another_version() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let pins = setting.lab.paths().pins();
    let version = pins.join(format!("v{}", sixxs_common::layout::VERSION));
    for command in ["run", "down"] {
        assert_eq!(setting.start()?.stop()?, 0);
        assert!(traps(&setting, "pins")?.is_empty());
        fs::rename(&version, pins.join("v2")).context("have them be another version's")?;
        let found = trap(&setting, "pins", "note")?;
        assert!(found["detail"].as_str().is_some_and(|d| d.contains(" v2 ")));
        let told = fix(&found)?;
        assert!(told.contains(&format!("sixxs {command} ")), "{told}");
        match command {
            "run" => assert_eq!(setting.start()?.stop()?, 0),
            other => drop(setting.program.ok(&[other])?),
        }
        assert!(traps(&setting, "pins")?.is_empty());
    }
    Ok(())
}

/// Without a state directory that can be written to, no broker is connected to.
#[test]
fn a_state_directory_that_cannot_be_written_to() -> Result<()> {
    let spec = Spec::native([Kind::SixInFour, Kind::Ayiya]);
    let mut setting = Setting::of(spec, Hook::Auto, "")?;
    setting.program.move_to(Mounts::new(setting.host(), &[])?);
    let state = setting.lab.paths().state();
    let shown = state.display();
    assert!(traps(&setting, "state")?.is_empty());

    // A file system that went read-only, as one with errors does.
    fs::create_dir(&state)?;
    setting.program.shell(&format!(
        "mount -t tmpfs none {shown}; mount -o remount,ro {shown}"
    ))?;
    let daemon = setting.start()?;
    let name = setting.lab.tunnels()[1].plan.interface;
    let status = setting.program.status_until("it is said", |status| {
        status
            .tunnel(name)
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("Read-only"))
    })?;
    assert_ne!(status.tunnel(name).state, "up");
    is_fixed(&setting, "state", "bad")?;
    setting.program.ok(&["restart", name])?;
    setting.is_up()?;
    assert_eq!(daemon.stop()?, 0);

    // Something else by that name.
    setting
        .program
        .shell(&format!("umount {shown}; rmdir {shown}; touch {shown}"))?;
    is_fixed(&setting, "state", "bad")?;
    let daemon = setting.start()?;
    setting.is_up()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Who may not write there is not told that the daemon cannot.
#[test]
fn a_state_directory_that_is_not_for_who_asks() -> Result<()> {
    let spec = Spec::native([Kind::SixInFour, Kind::SixInFour]);
    let setting = Setting::of(spec, Hook::Auto, "")?;
    fs::create_dir(setting.lab.paths().state())?;
    // There are no secrets in it.
    fs::set_permissions(setting.lab.paths().config(), Permissions::from_mode(0o644))?;
    let mut doctor = setting.host().command("setpriv");
    setting.program.dress(&mut doctor);
    doctor
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(setting.program.binary())
        .args(["doctor", "--json"]);
    let report: Value = serde_json::from_str(&finish(&mut doctor)?.stdout)?;
    let findings = report["findings"].as_array().context("findings")?;
    let state = findings.iter().find(|finding| finding["about"] == "state");
    let state = state.with_context(|| format!("{report:#}"))?;
    assert_eq!(state["verdict"], "note", "{state:#}");
    Ok(())
}
