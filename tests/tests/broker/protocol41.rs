//! 6in4, with a registered address and with heartbeats.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::pop::Source;
use sixxs_tests::lab::topology::{HOST4, OUTSIDE};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::service::Services;
use sixxs_tests::probe::{self, Ping};
use sixxs_tests::wait;

use super::client::{Client, LIMIT, carries};

const MOVED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

#[test]
fn registered_address() -> Result<()> {
    let lab = Lab::new(Spec::native([Kind::SixInFour, Kind::Ayiya]))?;
    let tunnel = &lab.tunnels()[0];
    let pop = tunnel.broker()?;
    let client = Client::start(&lab, tunnel, Kind::SixInFour)?;
    let services = Services::start(lab.host(), &[client.plan.address])?;
    carries(&lab, &client)?;
    assert_eq!(pop.counts().bad(), 0);

    let packet = frame::udp(OUTSIDE, client.plan.address, b"an intruder")?;
    let address = client.plan.address;
    let wrong = pop.forger(address, 1)?.wrong_packets(&packet, 100);
    pop.inject(address, Source::Own, wrong)?;
    let stranger = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 66), 0);
    pop.inject(address, Source::Other(stranger), vec![packet.clone()])?;
    assert_eq!(services.discarded(), 0);
    pop.inject(address, Source::Own, vec![packet])?;
    let seen = || Ok(services.discarded());
    wait::until("a right one comes through", LIMIT, seen, |seen| *seen == 1)?;

    lab.move_host4(MOVED)?;
    Ping::new(OUTSIDE, 3).source(address).run(lab.host())?;
    assert_eq!(pop.counts().bad_source, 3);
    pop.change(address, |setup| setup.registered = Some(MOVED))?;
    carries(&lab, &client)
}

#[test]
fn follows_heartbeats() -> Result<()> {
    let lab = Lab::new(Spec::native([Kind::Ayiya, Kind::Heartbeat]))?;
    let tunnel = &lab.tunnels()[1];
    let pop = tunnel.broker()?;
    let client = Client::start(&lab, tunnel, Kind::Heartbeat)?;
    let _services = Services::start(lab.host(), &[client.plan.address])?;
    let seen = || Ok(pop.counts());
    // Before the first heartbeat no packet passes in either direction.
    let address = client.plan.address;
    Ping::new(OUTSIDE, 3).source(address).run(lab.host())?;
    assert_eq!(probe::ping(lab.outside(), address, 3)?.answered, 0);
    let counts = pop.counts();
    assert_eq!((counts.bad_source, counts.unsent, counts.sent), (3, 3, 0));
    assert_eq!(client.received(), 0);
    client.heartbeat(Some(MOVED))?;
    wait::until("it names another", LIMIT, seen, |seen| seen.bad_source == 4)?;

    client.heartbeat(Some(HOST4))?;
    wait::until("the heartbeat arrives", LIMIT, seen, |seen| {
        seen.heartbeats == 1
    })?;
    carries(&lab, &client)?;

    lab.move_host4(MOVED)?;
    client.heartbeat(None)?;
    wait::until("the heartbeat arrives", LIMIT, seen, |seen| {
        seen.heartbeats == 2
    })?;
    carries(&lab, &client)?;
    let counts = pop.counts();
    assert_eq!(
        (counts.endpoint_changes, counts.bad()),
        (1, 4),
        "{counts:?}"
    );
    Ok(())
}
