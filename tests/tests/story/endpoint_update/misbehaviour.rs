//! The server misbehaves: a bounded number of requests, and a clear sentence for each case.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::hurricane::Fault;
use sixxs_tests::broker::tic::Certificate;
use sixxs_tests::chaos::clock;
use sixxs_tests::lab::topology::HOST4;
use sixxs_tests::probe::PingStream;
use sixxs_tests::wait;

use super::{NO_LIMIT, Story, TUNNEL_ID};

const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 30);

fn say(status: u16, words: &str) -> Fault {
    Fault::Say(status, words.to_owned())
}

/// Each fault, the state after it, and a part of the sentence.
fn faults() -> Vec<(Fault, &'static str, &'static str)> {
    vec![
        (say(200, "badauth"), "failed", "(badauth)"),
        (say(401, "<html>"), "failed", "(badauth)"),
        (say(200, "!donator"), "failed", "(!donator)"),
        (say(200, "notfqdn"), "failed", "(notfqdn)"),
        (say(200, "nohost"), "failed", "(nohost)"),
        (say(200, "!yours"), "failed", "(!yours)"),
        (say(200, "numhost"), "failed", "(numhost)"),
        (say(200, "abuse"), "failed", "(abuse)"),
        (say(200, "badagent"), "failed", "(badagent)"),
        (say(403, "no"), "failed", "(HTTP 403)"),
        (say(404, "no"), "failed", "(HTTP 404)"),
        (say(400, "no"), "failed", "(HTTP 4xx)"),
        (say(200, "dnserr"), "retrying", "(dnserr)"),
        (say(200, "911"), "retrying", "(911)"),
        (say(500, "911"), "retrying", "(911)"),
        (say(503, "<html>"), "retrying", "(HTTP 5xx)"),
        (say(429, "slow"), "retrying", "(HTTP 429)"),
        (say(302, "moved"), "retrying", "another URL"),
        (say(200, ""), "retrying", "is empty"),
        (
            say(200, "<html>hello</html>"),
            "retrying",
            "not a dyndns2 answer",
        ),
        (
            say(200, "good 192.0.2.99"),
            "retrying",
            "confirms another address",
        ),
        (
            say(200, "-ERROR: IP is not ICMP pingable."),
            "retrying",
            "let ICMP echo requests",
        ),
        (
            say(200, "-ERROR: IP is blocked."),
            "retrying",
            "does not accept this address",
        ),
        (Fault::Flood(50_000_000), "retrying", "too long"),
        (Fault::Garbage, "retrying", "does not answer the request"),
        (Fault::Close, "retrying", "does not answer the request"),
    ]
}

#[test]
fn each_fault_has_a_sentence_and_no_second_request() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let (fixture, lab) = (&story.fixture, &story.fixture.lab);
    let daemon = story.start()?;
    story.current_until(HOST4)?;
    let address = story.tunnel().plan.address;
    let pings = PingStream::start(lab.outside(), address, Duration::from_millis(10))?;
    for (number, (fault, state, words)) in faults().into_iter().enumerate() {
        let before = story.server.requests().len();
        story.server.misbehave(Some(fault.clone()));
        // Another host name: nothing is known about it.
        story.configure(NO_LIMIT, &format!("case{number}"))?;
        fixture.program.run_ok(&["reload"])?;
        let update = story
            .update_until(&format!("{fault:?} is known"), |update| {
                update.state == state && update.sentence.contains(words)
            })
            .with_context(|| daemon.log())?;
        assert_eq!(update.requests, 1, "{fault:?}: {update:?}");
        assert_eq!(
            update.next_in_seconds.is_some(),
            state == "retrying",
            "{fault:?}: {update:?}"
        );
        let problem = format!("sixxs0: the endpoint update failed: {}", update.sentence);
        fixture
            .program
            .status_until("the problem is listed", |status| {
                status.problems.contains(&problem)
            })?;
        if state == "failed" {
            // A person asks for another attempt.
            fixture.program.run_ok(&["start", "sixxs0"])?;
            story.answered_until(before + 2)?;
            story.update_until("it has failed again", |update| update.state == state)?;
            assert_eq!(story.server.requests().len(), before + 2, "{fault:?}");
        } else {
            assert_eq!(story.server.requests().len(), before + 1, "{fault:?}");
        }
    }
    // None of that has stopped the tunnel.
    let pings = pings.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    // The right host name is still known to be current.
    story.server.misbehave(None);
    let before = story.server.requests().len();
    story.configure(NO_LIMIT, &TUNNEL_ID.to_string())?;
    fixture.program.run_ok(&["reload"])?;
    story.current_until(HOST4)?;
    println!("{} requests in all", story.server.requests().len());
    assert!(story.server.requests().len() <= before + 1);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_server_without_the_right_certificate_gets_no_password() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    story.server.show(Certificate::OtherAuthority)?;
    let daemon = story.start()?;
    for (number, certificate) in [
        Certificate::OtherAuthority,
        Certificate::OtherName,
        Certificate::Expired,
    ]
    .into_iter()
    .enumerate()
    {
        story.server.show(certificate)?;
        story.configure(NO_LIMIT, &format!("case{number}"))?;
        story.fixture.program.run_ok(&["reload"])?;
        let update = story.update_until("the certificate is refused", |update| {
            update.state == "retrying" && update.sentence.contains("certificate")
        })?;
        println!("{certificate:?}: {}", update.sentence);
        assert!(
            update.sentence.starts_with("the server cannot be reached"),
            "{update:?}"
        );
    }
    assert_eq!(story.server.requests().len(), 0);
    story.server.show(Certificate::Right)?;
    story.configure(NO_LIMIT, &TUNNEL_ID.to_string())?;
    story.fixture.program.run_ok(&["reload"])?;
    story.current_until(HOST4)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The broker pings the new address; a firewall drops that.
#[test]
fn an_address_that_does_not_answer_pings_has_its_own_sentence() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let lab = &story.fixture.lab;
    let daemon = story
        .fixture
        .program
        .start_as(story.fixture.program.command(&clock::MOVABLE))?;
    story.current_until(HOST4).with_context(|| daemon.log())?;
    let firewall = |rule: &str| sixxs_tests::lab::nft::load(lab.host(), rule);
    firewall(
        "table ip firewall {\n chain in {\n  type filter hook input priority 0;\n  icmp type echo-request drop\n }\n}\n",
    )?;
    lab.move_host4(NEW)?;
    let update = story.update_until("the ping has failed", |update| update.state == "retrying")?;
    assert!(
        update.sentence.contains("let ICMP echo requests"),
        "{update:?}"
    );
    let status = story.fixture.program.status()?;
    let tunnel = status.tunnel(story.tunnel().plan.interface);
    assert_eq!(tunnel.health, "failing", "{tunnel:#?}");
    firewall("delete table ip firewall\n")?;
    assert_eq!(story.server.requests().len(), 2);
    // Half an hour later.
    clock::displace(lab.paths(), 0, 1801)?;
    let requests = || Ok(story.server.requests().len());
    wait::until(
        "it is sent again",
        Duration::from_secs(30),
        requests,
        |count| *count == 3,
    )?;
    story.current_until(NEW)?;
    story.ping_answered_after(Instant::now())?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// While a server hangs, the tunnel works; and another address does not wait for the end of the request.
#[test]
fn a_request_that_hangs_does_not_delay_another_address() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let lab = &story.fixture.lab;
    let daemon = story.start()?;
    story.current_until(HOST4)?;
    story.server.misbehave(Some(Fault::Stall));
    lab.move_host4(Ipv4Addr::new(192, 0, 2, 31))?;
    let requests = || Ok(story.server.requests().len());
    let limit = Duration::from_secs(5);
    wait::until("the request is sent", limit, requests, |count| *count == 2)?;
    story.update_until("it is under way", |update| update.state == "sending")?;
    story.server.misbehave(None);
    lab.move_host4(NEW)?;
    let since = Instant::now();
    story.current_until(NEW)?;
    let took = story.ping_answered_after(since)?;
    println!("the tunnel answers {took:?} after the second change");
    assert_eq!(story.server.requests().len(), 3);
    // Back to the first address, which the broker may have had in between.
    lab.move_host4(HOST4)?;
    story.current_until(HOST4)?;
    story.ping_answered_after(Instant::now())?;
    assert_eq!(story.server.requests().len(), 4);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
