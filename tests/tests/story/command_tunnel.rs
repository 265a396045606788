//! Tunnels of kind `command`: somebody's program makes and removes the interface, on our word.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::Lab;
use sixxs_tests::program::Hook;
use sixxs_tests::snapshot::{assert_same, take};
use sixxs_tests::topology::Flavour;
use sixxs_tests::wait;

use crate::setting::Setting;

/// The first tunnel is a pair of veth that the commands make: without a broker, the pair's far
/// end stays in the host.
fn config(lab: &Lab, up: &str) -> String {
    let interfaces = lab.config("");
    let kind = format!(
        "kind = \"command\"\nup = {up}\ndown = [\"ip\", \"link\", \"delete\", \"made0\"]\n"
    );
    let tunnel = format!(
        "\n[[tunnel]]\nname = \"made0\"\n{kind}\
         address = \"2001:db8:c::2/64\"\npeer = \"2001:db8:c::1\"\nmtu = 1400\n\
         gateway = \"fe80::1\"\n"
    );
    interfaces + &tunnel
}

/// Makes the interface and configures it, as tunnel programs do.
const MAKE: &str = r#"["sh", "-euc", """
ip link add made0 mtu 1400 type veth peer name far0
ip link set far0 up
ip address add 2001:db8:c::2/64 dev made0 nodad
ip link set made0 up
"""]"#;

fn interface_is_there(setting: &Setting) -> Result<bool> {
    Ok(setting.host().sh("ip -o link show")?.contains("made0"))
}

#[test]
fn started_and_stopped_on_our_word() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let before = take(&setting.lab)?;
    setting.lab.write_config(&config(&setting.lab, MAKE))?;
    let daemon = setting.start()?;
    let what = "the command has made the interface";
    setting
        .program
        .status_until(what, |status| status.tunnel("made0").ifindex.is_some())?;
    assert!(interface_is_there(&setting)?);
    let status = setting
        .program
        .status_until("routing is in place", |status| {
            status.tunnel("made0").routing == "in_place"
        })?;
    assert_eq!(status.tunnel("made0").kind, "command");
    assert!(setting.own_rules()?.contains("2001:db8:c::2"));
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }

    setting.program.ok(&["stop", "made0"])?;
    setting.program.status_until("it is down", |status| {
        status.tunnel("made0").state == "down"
    })?;
    assert!(!interface_is_there(&setting)?);
    setting.program.ok(&["start", "made0"])?;
    let made = || interface_is_there(&setting);
    wait::until("it is made again", Duration::from_secs(5), made, |there| {
        *there
    })?;
    setting.program.status_until("it is back", |status| {
        status.tunnel("made0").ifindex.is_some()
    })?;
    setting.program.ok(&["restart", "made0"])?;
    setting.program.status_until("it is back", |status| {
        status.tunnel("made0").ifindex.is_some()
    })?;
    let nobody = setting.program.run(&["stop", "nobody"])?;
    assert!(
        nobody.code != 0 && nobody.stderr.contains("nobody"),
        "{nobody:#?}"
    );

    setting.program.ok(&["stop", "made0"])?;
    setting.program.ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    assert_same(&before, &take(&setting.lab)?);
    Ok(())
}

#[test]
fn a_command_that_fails_is_told() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    for (up, reason) in [
        (
            r#"["ip", "link", "add", "made0", "type", "nonsense"]"#,
            "ip",
        ),
        (r#"["/no/such/program"]"#, "/no/such/program"),
        (r#"["sh", "-c", "echo out of order >&2; exit 7"]"#, "7"),
    ] {
        setting.lab.write_config(&config(&setting.lab, up))?;
        // The others are none the worse for it.
        let daemon = setting.start()?;
        let failed =
            |status: &sixxs_tests::status::Status| status.tunnel("made0").state == "failed";
        let status = setting
            .program
            .status_until("it is seen as failed", failed)?;
        let tunnel = status.tunnel("made0");
        assert!(
            tunnel.reason.as_ref().is_some_and(|r| r.contains(reason)),
            "{tunnel:#?}"
        );
        assert!(!status.healthy);
        assert!(status.tunnel("sixxs0").is_whole() && status.tunnel("sixxs1").is_whole());
        let printed = setting.program.run(&["status"])?;
        assert_eq!(printed.code, 3);
        assert!(printed.stdout.contains("failed"), "{printed:#?}");
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}
