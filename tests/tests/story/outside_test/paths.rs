//! Paths that lose packets, or take only small ones.

use anyhow::{Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::topology::{Flavour, TUNNELS};
use sixxs_tests::lab::{Spec, nft};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Tunnel;

use super::{LINKS, check, is_whole, of, started};
use crate::fixture::Fixture;

/// The MTU of the tunnels in these tests.
const MTU: u32 = 1480;

fn words(test: &Value) -> String {
    let part = |key: &str| test[key].as_str().unwrap_or_default().to_owned();
    format!("{}; {}", part("sentence"), part("hint"))
}

/// Drops packets of one direction in the core, by this statement.
fn in_core(fixture: &Fixture, statement: &str) -> Result<()> {
    let rules = format!(
        "table ip6 impaired {{
            chain forwarded {{
                type filter hook forward priority 0
                ip6 saddr {} ip6 daddr {} {statement}
            }}
        }}",
        TUNNELS[0].address, TUNNELS[1].address
    );
    nft::load(fixture.lab.core(), &rules)
}

fn mend(fixture: &Fixture) -> Result<()> {
    fixture.lab.core().sh("nft delete table ip6 impaired")?;
    Ok(())
}

/// Each direction has its own loss. Some loss passes.
#[test]
fn lost_packets_are_counted() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, MTU)?;
    for (dropped, pass) in [(2, true), (5, false)] {
        in_core(&fixture, &format!("numgen inc mod 10 < {dropped} drop"))?;
        let (code, tests) = check(&fixture, &LINKS)?;
        ensure!((code == 0) == pass, "{tests:#?}");
        let lossy = of(&tests, LINKS[0], LINKS[1])?;
        ensure!(lossy["pass"] == pass, "{lossy:#}");
        ensure!(lossy["arrived"] == 10 - dropped, "{lossy:#}");
        let percent = f64::from(dropped) * 10.0;
        ensure!(lossy["loss_percent"] == percent, "{lossy:#}");
        let expected = format!("{} of 10 arrived ({percent} % lost)", 10 - dropped);
        ensure!(words(lossy).contains(&expected), "{lossy:#}");
        ensure!(lossy["cause"] == if pass { Value::Null } else { "loss".into() });
        // Each size is tried several times.
        ensure!(lossy["path_mtu"] == MTU, "{lossy:#}");
        is_whole(of(&tests, LINKS[1], LINKS[0])?, MTU)?;
        mend(&fixture)?;
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A smaller MTU on the path is found, with and without the router's error, and nothing remembers it.
fn the_path_mtu_is_found(flavour: Flavour, hook: Hook) -> Result<()> {
    const SMALL: u32 = 1337;
    let (fixture, daemon) = started(flavour, hook, MTU)?;
    let core = fixture.lab.core();
    // The router forwards no more by this route.
    core.ip(&format!(
        "route replace 2001:db8:b::/64 via fe80::2 dev pop1 mtu lock {SMALL}\n"
    ))?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 0, "{tests:#?}");
    let narrow = of(&tests, LINKS[0], LINKS[1])?;
    is_whole(narrow, SMALL)?;
    ensure!(
        narrow["too_big"] == SMALL + 1 && narrow["mtu"] == MTU,
        "{narrow:#}"
    );
    ensure!(
        narrow["router_mtu"] == SMALL && narrow["router"].is_string(),
        "{narrow:#}"
    );
    ensure!(
        words(narrow).contains(&format!("path MTU {SMALL} of {MTU} (")),
        "{narrow:#}"
    );
    is_whole(of(&tests, LINKS[1], LINKS[0])?, MTU)?;
    let cached = fixture.host().sh("ip -6 route show cache")?;
    ensure!(cached.trim().is_empty(), "{cached}");

    // Without errors of the router, by halving.
    let silent = "table ip6 silent { chain out { type filter hook output priority 0\n icmpv6 type packet-too-big drop\n}\n}";
    nft::load(core, silent)?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 0, "{tests:#?}");
    let narrow = of(&tests, LINKS[0], LINKS[1])?;
    is_whole(narrow, SMALL)?;
    ensure!(
        narrow["too_big"] == SMALL + 1 && narrow["router"].is_null(),
        "{narrow:#}"
    );
    ensure!(
        words(narrow).contains("no router reports that"),
        "{narrow:#}"
    );

    // A path that does not even take what IPv6 requires.
    nft::load(
        core,
        &format!(
            "table ip6 impaired {{ chain forwarded {{ type filter hook forward priority 0\n ip6 daddr {} ip6 length > 1000 drop\n}}\n}}",
            TUNNELS[1].address
        ),
    )?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 3, "{tests:#?}");
    let broken = of(&tests, LINKS[0], LINKS[1])?;
    ensure!(
        broken["cause"] == "path_mtu" && broken["path_mtu"].is_null(),
        "{broken:#}"
    );
    ensure!(
        broken["arrived"] == 10 && broken["too_big"] == 1280,
        "{broken:#}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}

variants!(the_path_mtu_is_found:
    path_mtu_tun(Tun, Auto), path_mtu_veth(Veth, Auto), path_mtu_clsact(Tun, Clsact));

/// A broker that passes nothing between its tunnels, with an error and without.
#[test]
fn a_broker_that_refuses_to_hairpin_is_named() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, MTU)?;
    let [first, _] = fixture.lab.tunnels();
    let to = TUNNELS[1].address;
    let dropping = format!(
        "table ip6 customers {{
            chain forwarded {{
                type filter hook forward priority 0
                iifname \"host\" ip6 daddr {to} drop
            }}
        }}"
    );
    for (cause, hint) in [
        ("between", "a broker may refuse to hairpin"),
        (
            "refused",
            "a broker may refuse packets between its customers (hairpin)",
        ),
    ] {
        match cause {
            "between" => nft::load(first.pop(), &dropping)?,
            _ => first.pop().ip(&format!("route add prohibit {to}\n"))?,
        }
        let (code, tests) = check(&fixture, &LINKS)?;
        ensure!(code == 3, "{tests:#?}");
        let refused = of(&tests, LINKS[0], LINKS[1])?;
        ensure!(
            refused["arrived"] == 0 && refused["loss_percent"] == 100.0,
            "{refused:#}"
        );
        ensure!(
            refused["cause"] == cause && refused["path_mtu"].is_null(),
            "{refused:#}"
        );
        ensure!(words(refused).contains(hint), "{refused:#}");
        let known = match cause {
            "refused" => "reports: administratively prohibited",
            _ => "the far ends of sixxs0 and sixxs1 answer",
        };
        ensure!(words(refused).contains(known), "{refused:#}");
        is_whole(of(&tests, LINKS[1], LINKS[0])?, MTU)?;
        match cause {
            "between" => first.pop().sh("nft delete table ip6 customers").map(drop)?,
            _ => first.pop().ip(&format!("route del prohibit {to}\n"))?,
        }
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Two customers of one broker, whose packets turn round in its router.
#[test]
fn tunnels_of_the_same_broker_are_recognised() -> Result<()> {
    let spec = Spec {
        extra_tunnels: 1,
        ..Spec::native([Kind::SixInFour, Kind::Heartbeat])
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("all tunnels are up", |status| {
            status.tunnels.len() == 3 && status.tunnels.iter().all(Tunnel::is_whole)
        })?;
    let both = ["sixxs0", "more0"];
    let (code, tests) = check(&fixture, &both)?;
    ensure!(code == 0 && tests.len() == 2, "{tests:#?}");
    for (from, to) in [(0, 1), (1, 0)] {
        is_whole(of(&tests, both[from], both[to])?, 1280)?;
    }
    let [first, _] = fixture.lab.tunnels();
    let rules = "table ip6 customers { chain forwarded { type filter hook forward priority 0
        iifname \"host\" oifname \"host\" drop
    } }";
    nft::load(first.pop(), &rules.replace("} }", "}\n}"))?;
    let (code, tests) = check(&fixture, &both)?;
    ensure!(code == 3, "{tests:#?}");
    for (from, to) in [(0, 1), (1, 0)] {
        let refused = of(&tests, both[from], both[to])?;
        ensure!(refused["cause"] == "hairpin", "{refused:#}");
        let expected = format!(
            "none of 10 arrived: both tunnels lead to the broker {}; the far ends of {} and {} answer; \
             the broker may refuse to hairpin",
            first.plan.remote4, both[from], both[to]
        );
        ensure!(words(refused).contains(&expected), "{refused:#}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Other reasons why nothing arrives.
#[test]
fn other_causes_are_named() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, MTU)?;
    let [first, second] = fixture.lab.tunnels();
    let fails = |from: usize, to: usize, cause: &str, expected: &str| -> Result<()> {
        let (code, tests) = check(&fixture, &LINKS)?;
        ensure!(code == 3, "{tests:#?}");
        let lost = of(&tests, LINKS[from], LINKS[to])?;
        ensure!(lost["cause"] == cause, "{lost:#}");
        ensure!(words(lost).contains(expected), "{lost:#}");
        Ok(())
    };
    // The first broker is dead.
    let dead = "table ip6 dead {
        chain arrives { type filter hook prerouting priority -500; iifname \"host\" drop; }
        chain leaves { type filter hook postrouting priority 400; oifname \"host\" drop; }
    }";
    nft::load(first.pop(), dead)?;
    fails(
        0,
        1,
        "sender_silent",
        "sixxs0 itself fails: its far end 2001:db8:a::1 does not answer",
    )?;
    fails(1, 0, "receiver_silent", "sixxs0 itself fails")?;
    first.pop().sh("nft delete table ip6 dead")?;
    // The internet has no route to the receiver.
    let core = fixture.lab.core();
    core.sh("ip -6 route replace unreachable 2001:db8:b::/64")?;
    fails(0, 1, "unreachable", "reports: no route to the destination")?;
    core.sh("ip -6 route del unreachable 2001:db8:b::/64")?;
    core.ip("route add 2001:db8:b::/64 via fe80::2 dev pop1\n")?;
    // Two routers each think that the other one has it.
    second
        .pop()
        .sh("ip -6 route replace 2001:db8:b::2/128 via fe80::1 dev core")?;
    fails(0, 1, "loop", "the hop limit is exceeded")?;
    second
        .pop()
        .sh("ip -6 route del 2001:db8:b::2/128 via fe80::1 dev core")?;
    // Something on the host drops them where they leave.
    let egress = "table netdev e { chain out { type filter hook egress device \"sixxs0\" priority 0\n icmpv6 type echo-request drop\n}\n}";
    if nft::load(fixture.host(), egress).is_ok() {
        fails(
            0,
            1,
            "not_sent",
            "none left by sixxs0: a filter drops them there",
        )?;
        fixture.host().sh("nft delete table netdev e")?;
    }
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 0, "{tests:#?}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// On a link layer, the next hop has to answer.
#[test]
fn a_silent_next_hop_is_named() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Veth, Hook::Auto, MTU)?;
    let [first, _] = fixture.lab.tunnels();
    let mute = "table ip6 mute { chain out { type filter hook output priority 0\n icmpv6 type nd-neighbor-advert drop\n}\n}";
    nft::load(first.pop(), mute)?;
    fixture.host().sh("ip -6 neighbour flush dev sixxs0")?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 3, "{tests:#?}");
    let lost = of(&tests, LINKS[0], LINKS[1])?;
    ensure!(lost["cause"] == "not_sent", "{lost:#}");
    ensure!(
        words(lost).contains("none left by sixxs0: the next hop fe80::1 does not answer"),
        "{lost:#}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}
