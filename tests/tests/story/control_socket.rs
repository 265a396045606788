//! Who may talk to the daemon: root and the group `sixxs`, nobody else.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::process::Command;

use anyhow::{Context as _, Result};
use sixxs_tests::program::{Hook, finish};
use sixxs_tests::topology::Flavour;

use crate::setting::Setting;

#[test]
fn others_are_refused() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let socket = setting.lab.paths().run().join("control.sock");
    let metadata = std::fs::metadata(&socket)?;
    assert!(metadata.file_type().is_socket());
    assert_eq!(
        metadata.permissions().mode() & 0o007,
        0,
        "others may not connect"
    );

    // A copy that everybody may run, wherever the program was built.
    let copy = setting.lab.paths().base().join("sixxs");
    std::fs::copy(setting.program.binary(), &copy)?;
    for command in ["status", "stop", "down"] {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        nobody.arg(&copy).arg(command);
        setting.program.dress(&mut nobody);
        let printed = finish(&mut nobody)?;
        assert!(![0, 3].contains(&printed.code), "{command}: {printed:#?}");
        assert!(
            !printed.stdout.contains("2001:db8"),
            "{command}: {printed:#?}"
        );
        assert!(!printed.stderr.is_empty(), "{command} says why");
    }
    assert!(setting.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    assert!(!socket.exists(), "the socket goes with the daemon");
    Ok(())
}

/// Members of the group may look, and not change. Any group serves to show it.
#[test]
fn the_group_may_look() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let run = setting.program.command(&["--group", "daemon", "run"]);
    let daemon = setting.program.start_as(run)?;
    let copy = setting.lab.paths().base().join("sixxs");
    std::fs::copy(setting.program.binary(), &copy)?;
    let as_member = |command: &[&str]| {
        let mut member = Command::new("setpriv");
        member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
        member.arg(&copy).args(command);
        setting.program.dress(&mut member);
        finish(&mut member)
    };
    for command in ["status", "counters", "alerts"] {
        let printed = as_member(&[command])?;
        assert_eq!(printed.code, 0, "{command}: {printed:#?}");
    }
    for command in ["stop", "start", "restart"] {
        let printed = as_member(&[command])?;
        assert_eq!(printed.code, 1, "{command}: {printed:#?}");
        assert!(printed.stderr.contains("only root"), "{printed:#?}");
    }
    assert!(setting.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A second daemon at the same place would fight the first one.
#[test]
fn one_daemon_at_a_time() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let second = setting.program.run(&["run"])?;
    assert_eq!(second.code, 1, "{second:#?}");
    assert!(second.stderr.contains("another sixxs"), "{second:#?}");
    assert!(setting.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    // After a kill the socket is still there, and in nobody's way.
    setting.start()?.kill()?;
    let daemon = setting.start()?;
    assert!(setting.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Two in one network namespace would undo each other's work, whatever directories they have.
#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    setting.is_up()?;
    let rules = setting.own_rules()?;
    let elsewhere = setting.lab.paths().base().join("elsewhere");
    let second = |name: &str| {
        let directory = elsewhere.join(name);
        let directory = directory.to_str().context("a path")?;
        setting
            .program
            .run(&["--run-dir", directory, "--state-dir", directory, "run"])
    };
    let refused = second("first")?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    let holder = format!(
        "another sixxs (process {}) runs in this network",
        daemon.pid()?
    );
    assert!(refused.stderr.contains(&holder), "{refused:#?}");
    assert_eq!(setting.own_rules()?, rules);
    assert_eq!(setting.program.status()?.corrections, 0);

    // Killed, it keeps nobody away.
    daemon.kill()?;
    let daemon = setting.start()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
