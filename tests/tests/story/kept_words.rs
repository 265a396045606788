//! Without a daemon, what brokers last said of the tunnels of accounts is known all the same: to
//! `sixxs explain`, `sixxs plan` and `sixxs doctor`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::program::Hook;

use crate::setting::Setting;

fn explained(setting: &Setting, source: &str) -> Result<Value> {
    let asked = ["explain", source, &OUTSIDE.to_string()];
    let (status, mut values) = setting.program.json(&asked)?;
    ensure!(status == 0, "{status}: {values:#?}");
    values.pop().context("an explanation")
}

fn finding(setting: &Setting, about: &str) -> Result<Option<Value>> {
    let (_, report) = setting.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_it = |finding: &&Value| finding["about"] == about;
    Ok(findings.iter().find(is_it).cloned())
}

#[test]
fn tunnels_of_accounts_without_a_daemon() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let lab = &setting.lab;
    lab.write_config(&lab.config_by_aiccu("", true)?)?;
    let [first, second] = lab.tunnels().each_ref().map(|tunnel| tunnel.plan);
    let source = first.address.to_string();
    // Nobody was asked yet.
    assert!(explained(&setting, &source)?["tunnel"].is_null());

    let daemon = setting.start()?;
    setting.is_up().with_context(|| daemon.log())?;
    assert_eq!(daemon.stop()?, 0);
    assert_eq!(setting.program.run(&["plan"])?.code, 0);
    for plan in [first, second] {
        let own = explained(&setting, &plan.address.to_string())?;
        assert_eq!(own["tunnel"], plan.interface, "{own:#}");
        assert_eq!(own["interface"], plan.interface, "{own:#}");
    }

    // A rule of somebody's leads its packets elsewhere.
    assert_eq!(finding(&setting, "shadowed")?, None);
    let rule = format!("from {source} lookup main priority 100");
    setting.host().sh(&format!("ip -6 rule add {rule}"))?;
    let shadowed = finding(&setting, "shadowed")?.context("it is not seen")?;
    let fix = shadowed["fix"].as_str().context("a fix")?;
    let fix = fix.split("; or").next().unwrap_or_default();
    setting.program.shell(fix)?;
    assert_eq!(finding(&setting, "shadowed")?, None);

    // Rules that are gone are missed, and what brings them back is printed.
    setting.delete_own_rules()?;
    let without = explained(&setting, &source)?;
    assert_eq!(without["outcome"], "caught", "{without:#}");
    assert_eq!(without["cause"], "rule_missing", "{without:#}");
    let daemon = finding(&setting, "daemon")?.context("it is not said")?;
    let detail = daemon["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(" 2 of the rules and routes"), "{daemon:#}");
    let plan = setting.program.run(&["plan"])?;
    assert_eq!((plan.code, plan.stdout.lines().count()), (3, 2), "{plan:?}");
    setting.program.shell(&plan.stdout)?;
    assert_eq!(explained(&setting, &source)?["interface"], first.interface);

    // What was said of another account's tunnel says nothing of this one's.
    let conf = lab.paths().aiccu_conf(first.interface);
    let text = std::fs::read_to_string(&conf)?;
    let changed = text.replace("tunnel_id ", "tunnel_id X");
    ensure!(changed != text, "{text}");
    std::fs::write(&conf, changed)?;
    assert!(explained(&setting, &source)?["tunnel"].is_null());
    Ok(())
}
