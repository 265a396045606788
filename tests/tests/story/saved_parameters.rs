//! Without a daemon, `sixxs explain`, `sixxs plan` and `sixxs doctor` know the parameters that a broker
//! provisioned last.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

fn explained(fixture: &Fixture, source: &str) -> Result<Value> {
    let asked = ["explain", source, &OUTSIDE.to_string()];
    let (status, mut values) = fixture.program.json(&asked)?;
    ensure!(status == 0, "{status}: {values:#?}");
    values.pop().context("an explanation")
}

fn finding(fixture: &Fixture, about: &str) -> Result<Option<Value>> {
    let (_, report) = fixture.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_it = |finding: &&Value| finding["about"] == about;
    Ok(findings.iter().find(is_it).cloned())
}

#[test]
fn tunnels_of_accounts_without_a_daemon() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let [first, second] = lab.tunnels().each_ref().map(|tunnel| tunnel.plan);
    let source = first.address.to_string();
    // No broker was queried yet.
    assert!(explained(&fixture, &source)?["tunnel"].is_null());

    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    assert_eq!(daemon.stop()?, 0);
    assert_eq!(fixture.program.run(&["plan"])?.code, 0);
    for plan in [first, second] {
        let own = explained(&fixture, &plan.address.to_string())?;
        assert_eq!(own["tunnel"], plan.interface, "{own:#}");
        assert_eq!(own["interface"], plan.interface, "{own:#}");
    }

    // A foreign rule leads its packets elsewhere.
    assert_eq!(finding(&fixture, "shadowed")?, None);
    let rule = format!("from {source} lookup main priority 100");
    fixture.host().sh(&format!("ip -6 rule add {rule}"))?;
    let shadowed = finding(&fixture, "shadowed")?.context("it is not seen")?;
    let fix = shadowed["fix"].as_str().context("a fix")?;
    let fix = fix.split("; or").next().unwrap_or_default();
    fixture.program.shell(fix)?;
    assert_eq!(finding(&fixture, "shadowed")?, None);

    // Deleted rules are reported, and `plan` prints the commands that restore them.
    fixture.delete_own_rules()?;
    let without = explained(&fixture, &source)?;
    assert_eq!(without["outcome"], "caught", "{without:#}");
    assert_eq!(without["cause"], "rule_missing", "{without:#}");
    let daemon = finding(&fixture, "daemon")?.context("it is not said")?;
    let detail = daemon["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(" 2 of the rules and routes"), "{daemon:#}");
    let plan = fixture.program.run(&["plan"])?;
    assert_eq!((plan.code, plan.stdout.lines().count()), (3, 2), "{plan:?}");
    fixture.program.shell(&plan.stdout)?;
    assert_eq!(explained(&fixture, &source)?["interface"], first.interface);

    // The saved parameters of another tunnel are not used.
    let conf = lab.paths().aiccu_conf(first.interface);
    let text = std::fs::read_to_string(&conf)?;
    let changed = text.replace("tunnel_id ", "tunnel_id X");
    ensure!(changed != text, "{text}");
    std::fs::write(&conf, changed)?;
    assert!(explained(&fixture, &source)?["tunnel"].is_null());
    Ok(())
}
