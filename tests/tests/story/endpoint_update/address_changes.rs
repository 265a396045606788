//! The address of the host changes; the broker learns the new one by exactly one request.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::chaos::clock;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, HOST4, OUTSIDE, TIC_SERVER, UPLINK};
use sixxs_tests::probe::{Ping, PingStream};
use sixxs_tests::wait;

use super::{KEY, NO_LIMIT, Story, TUNNEL_ID, USER};
use crate::fixture::exclusive;

const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const DAY_SECONDS: u64 = 24 * 3600;

#[test]
fn the_tunnel_goes_on_within_a_second_of_the_answer() -> Result<()> {
    let _exclusive = exclusive();
    let story = Story::native("")?;
    let (fixture, lab) = (&story.fixture, &story.fixture.lab);
    let daemon = story.start()?;
    // Nothing is known yet: the address is sent once, although the broker has it.
    story.current_until(HOST4)?;
    assert_eq!(story.answers(), [format!("nochg {HOST4}")]);
    let first = story.server.requests().remove(0);
    let login = Some((USER.to_owned(), KEY.to_owned()));
    assert_eq!((first.from, first.query.login), (HOST4, login));
    assert_eq!(first.query.hostname, Some(TUNNEL_ID.to_string()));
    assert_eq!(first.query.myip, Some(HOST4.to_string()));
    assert!(first.agent.starts_with("sixxs/"), "{}", first.agent);

    let address = story.tunnel().plan.address;
    let pings = PingStream::start(lab.outside(), address, Duration::from_millis(5))?;
    lab.move_host4(NEW)?;
    let requests = story.answered_until(2).with_context(|| daemon.log())?;
    let (words, answered) = requests[1].answered.clone().context("an answer")?;
    assert_eq!(words, format!("good {NEW}"));
    let took = story.ping_answered_after(answered)?;
    println!("the tunnel answers {took:?} after the answer of the server");
    ensure!(took < Duration::from_secs(1), "{took:?}");
    let pings = pings.stop()?;
    println!("{pings:?} while the address changed");
    fixture.ensure_outside_answered(story.tunnel())?;
    let update = story.current_until(NEW)?;
    assert_eq!(update.requests, 2);
    assert_eq!(update.sentence, format!("the broker sends to {NEW}"));
    assert!(
        update.confirmed_seconds_ago.is_some_and(|ago| ago < 60.0),
        "{update:?}"
    );
    let shown = fixture.program.run(&["status"])?.stdout;
    let line = format!("  update    current: the broker sends to {NEW}, confirmed");
    assert!(shown.contains(&line), "{shown}");
    assert_eq!(story.server.requests().len(), 2);

    // Neither a restart of the daemon, nor one of the tunnel, nor a reload sends anything.
    assert_eq!(daemon.stop()?, 0);
    let daemon = story.start()?;
    story.current_until(NEW)?;
    fixture
        .program
        .run_ok(&["restart", story.tunnel().plan.interface])?;
    story.current_until(NEW)?;
    fixture.program.run_ok(&["reload"])?;
    story.current_until(NEW)?;
    fixture.ensure_outside_answered(story.tunnel())?;
    assert_eq!(story.server.requests().len(), 2);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Without a slot of the connect limit nothing is sent; the update waits, and reports until when.
#[test]
fn requests_take_slots_of_the_connect_limit() -> Result<()> {
    let story = Story::native("[connect_limit]\nconnects = 1\n")?;
    let daemon = story.start()?;
    story.current_until(HOST4)?;
    story.fixture.lab.move_host4(NEW)?;
    let update = story.update_until("there is no slot", |update| {
        update.state == "waiting" && update.sentence.contains("no connect to 203.0.113.9 until")
    })?;
    assert!(
        update.next_in_seconds.is_some_and(|next| next > 1.0),
        "{update:?}"
    );
    // The broker sends to the old address, which is certain.
    let status = story
        .fixture
        .program
        .status_until("the health is known", |status| {
            let tunnel = status.tunnel(story.tunnel().plan.interface);
            tunnel.health == "failing"
        })?;
    let reasons = &status.tunnel(story.tunnel().plan.interface).health_reasons;
    let words = format!("the broker sends to {HOST4}");
    assert!(
        reasons.iter().any(|reason| reason.contains(&words)),
        "{reasons:?}"
    );
    assert_eq!(story.server.requests().len(), 1);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Behind a NAT the server takes the source address of the request, once and then daily.
#[test]
fn behind_a_nat_the_server_takes_the_source_address() -> Result<()> {
    let spec = Spec {
        nat: true,
        ..Spec::native([Kind::SixInFour, Kind::Ayiya])
    };
    let story = Story::new(spec, NO_LIMIT)?;
    let lab = &story.fixture.lab;
    // The NAT answers no pings.
    story.server.set_pings(false);
    lab.isp().ip("address add 10.0.0.1/24 dev host\n")?;
    lab.host().ip(&format!(
        "address delete {HOST4}/24 dev {UPLINK}\n\
         address add 10.0.0.10/24 dev {UPLINK}\n\
         route replace default via 10.0.0.1 dev {UPLINK}\n"
    ))?;
    let daemon = story
        .fixture
        .program
        .start_as(story.fixture.program.command(&clock::MOVABLE))?;
    let seen = lab.nat()?.address();
    let update = story.current_until(seen).with_context(|| daemon.log())?;
    assert!(
        update
            .sentence
            .contains("the source address of the request"),
        "{update:?}"
    );
    let [request] = &story.server.requests()[..] else {
        panic!("{:?}", story.server.requests());
    };
    assert_eq!((request.from, &request.query.myip), (seen, &None));
    let source = story.tunnel().plan.address;
    let ping = || {
        let ping = Ping::new(OUTSIDE, 1).source(source);
        ping.limit(Duration::from_millis(200))
            .run(story.fixture.host())
    };
    let limit = Duration::from_secs(5);
    wait::until("the tunnel carries packets", limit, ping, |pings| {
        pings.answered == 1
    })?;

    // This host cannot notice that the NAT has another address. A day later the server looks again.
    lab.nat()?.rebind_address()?;
    let seen = lab.nat()?.address();
    clock::displace(lab.paths(), 0, DAY_SECONDS - 600)?;
    let update = story.update_until("it is nearly due", |update| {
        update.next_in_seconds.is_some_and(|next| next < 700.0)
    })?;
    assert_eq!(update.state, "current", "{update:?}");
    clock::displace(lab.paths(), 0, DAY_SECONDS + 1)?;
    let requests = || Ok(story.server.requests().len());
    wait::until(
        "it is sent again",
        Duration::from_secs(30),
        requests,
        |count| *count == 2,
    )?;
    story.current_until(seen)?;
    wait::until("the tunnel goes on", limit, ping, |pings| {
        pings.answered == 1
    })?;
    assert_eq!(story.server.requests().len(), 2);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Other software makes the interface; the far end is in the configuration.
#[test]
fn an_interface_of_other_software_has_updates_too() -> Result<()> {
    let story = Story::new(Spec::new(Flavour::Tun), NO_LIMIT)?;
    let lab = &story.fixture.lab;
    let remote4 = story.tunnel().plan.remote4;
    let text = lab.config(NO_LIMIT);
    let remote = format!("kind = \"interface\"\nremote = \"{remote4}\"\n");
    let text = text.replacen("kind = \"interface\"\n", &remote, 1);
    lab.write_config(&story.with_update(&text, &TUNNEL_ID.to_string())?)?;
    let daemon = story.start()?;
    story.current_until(HOST4)?;
    lab.move_host4(NEW)?;
    story.current_until(NEW)?;
    assert_eq!(
        story.answers(),
        [format!("nochg {HOST4}"), format!("good {NEW}")]
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A reload starts and changes updates without a restart of the tunnel, and names the connect beforehand.
#[test]
fn a_reload_changes_updates_alone() -> Result<()> {
    let story = Story::new(Spec::native([Kind::SixInFour, Kind::Ayiya]), "")?;
    let (fixture, lab) = (&story.fixture, &story.fixture.lab);
    lab.write_config(&lab.config(""))?;
    let daemon = story.start()?;
    let name = story.tunnel().plan.interface;
    let before = fixture.program.status()?;
    assert!(before.tunnel(name).update.is_none());
    let pings = PingStream::start(
        lab.outside(),
        story.tunnel().plan.address,
        Duration::from_millis(5),
    )?;
    story.configure("", &TUNNEL_ID.to_string())?;
    let (_, found) = fixture.program.json(&["reload", "--check"])?;
    let found = found.first().context("an answer")?;
    assert_eq!(
        found["tunnels"]["altered"],
        serde_json::json!([name]),
        "{found:#}"
    );
    let needed = &found["connects"][0];
    assert_eq!(needed["broker"], TIC_SERVER.to_string(), "{found:#}");
    assert_eq!(needed["connects"], 1, "{found:#}");
    fixture.program.run_ok(&["reload"])?;
    story.current_until(HOST4)?;
    // The record has the address: the check names no connect.
    lab.write_config(&lab.config(""))?;
    fixture.program.run_ok(&["reload"])?;
    assert!(fixture.program.status()?.tunnel(name).update.is_none());
    story.configure("", &TUNNEL_ID.to_string())?;
    let (_, found) = fixture.program.json(&["reload", "--check"])?;
    assert_eq!(found[0]["connects"], serde_json::json!([]), "{found:#?}");
    fixture.program.run_ok(&["reload"])?;
    story.current_until(HOST4)?;
    assert_eq!(story.server.requests().len(), 1);
    let after = fixture.program.status()?;
    assert_eq!(before.tunnel(name).ifindex, after.tunnel(name).ifindex);
    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn the_metrics_have_the_state() -> Result<()> {
    let story = Story::native("")?;
    let daemon = story.start()?;
    story.current_until(HOST4)?;
    let socket = story.fixture.lab.paths().run().join("control.sock");
    let metrics = story.fixture.program.shell(&format!(
        "curl --silent --unix-socket {} http://sixxs/v1/metrics",
        socket.display()
    ))?;
    for line in [
        "sixxs_endpoint_update_state{tunnel=\"sixxs0\",state=\"current\"} 1",
        "sixxs_endpoint_update_state{tunnel=\"sixxs0\",state=\"failed\"} 0",
        "sixxs_endpoint_update_requests_total{tunnel=\"sixxs0\"} 1",
        "sixxs_endpoint_update_confirmed_timestamp_seconds{tunnel=\"sixxs0\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
