//! Beside a full tunnel as wg-quick sets it up. Its rules have no priority given and so precede ours. The
//! program names the rule that takes the packets, and the suggested cure works.

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::{Flavour, OUTSIDE};
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// wg-quick's rules, in the order in which it adds them.
const RULES: [&str; 2] = [
    "not from all fwmark 0xca6c lookup 51820",
    "from all lookup main suppress_prefixlength 0",
];

#[test]
fn its_rules_are_moved_behind_ours() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let host = fixture.host();
    let default = host.sh("ip -6 route show default")?;
    let default = default.lines().next().context("a default route")?;
    let way = default.split(" metric").next().context("its way")?;
    host.sh(&format!("ip -6 route add {way} table 51820"))?;
    for rule in RULES {
        host.sh(&format!("ip -6 rule add {rule}"))?;
    }
    let rules = host.sh("ip -6 rule show")?;
    assert!(
        rules.contains("16382:\tnot from all fwmark 0xca6c"),
        "{rules}"
    );
    assert!(rules.contains("16381:\tfrom all lookup main"), "{rules}");

    let [tunnel, _] = fixture.lab.tunnels();
    let (name, address) = (tunnel.plan.interface, tunnel.plan.address);
    fixture.program.status_until("it is named", |status| {
        let tunnel = status.tunnel(name);
        let reasons = tunnel.health_reasons.join("; ");
        tunnel.health == "degraded" && reasons.contains("(priority 16382)")
    })?;
    // The programs redirect the packets that the rules lead elsewhere.
    fixture.ensure_outside_answered(tunnel)?;
    let outside = OUTSIDE.to_string();
    let explain = ["explain", &address.to_string(), &outside];
    let told = fixture.program.run(&explain)?.stdout;
    assert!(
        told.contains("comes before the rules of sixxs and routes it elsewhere: 16382"),
        "{told}"
    );

    let (code, doctors) = fixture.program.json(&["doctor"])?;
    assert_eq!(code, 3);
    let doctors = format!("{doctors:?}");
    let (_, moves) = doctors
        .split_once("move it behind the rules of sixxs: ")
        .context("a cure")?;
    let moves = moves.split(['"', ';']).next().context("a command")?;
    assert!(
        moves.contains("0xca6c lookup 51820 priority 32765"),
        "{moves}"
    );
    fixture.program.shell(moves)?;

    fixture
        .program
        .status_until("all is well", |status| status.healthy)?;
    fixture.ensure_outside_answered(tunnel)?;
    let told = fixture.program.run(&explain)?.stdout;
    assert!(told.contains(&format!("leaves by {name}")), "{told}");
    // Packets without a tunnel's source still use the full tunnel.
    let route = host.sh(&format!("ip -6 route get {outside}"))?;
    assert!(route.contains("table 51820"), "{route}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
