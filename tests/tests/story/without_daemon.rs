//! Without the daemon the outside gets no reply, and the ISP's filter counts each one.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe;
use sixxs_tests::probe::service::Services;
use sixxs_tests::program::Hook;

variants!(every_reply_is_filtered: tun(Tun, Auto), veth(Veth, Auto));

fn every_reply_is_filtered(flavour: Flavour, _: Hook) -> Result<()> {
    let lab = Lab::new(Spec::new(flavour))?;
    let addresses = lab.tunnels().each_ref().map(|t| t.plan.address);
    let _services = Services::start(lab.host(), &addresses)?;
    assert_eq!(lab.dropped_by_isp()?, 0);
    let mut filtered = 0;
    for tunnel in lab.tunnels() {
        let address = tunnel.plan.address;
        let pings = probe::ping(lab.outside(), address, 20)?;
        assert_eq!((pings.sent, pings.answered), (20, 0));
        filtered += 20;
        assert_eq!(lab.dropped_by_isp()?, filtered);

        assert_eq!(probe::udp_echo(lab.outside(), address, 5, 100, false)?, 0);
        filtered += 5;
        assert_eq!(lab.dropped_by_isp()?, filtered);

        // The requests arrived through the tunnel, but the replies left elsewhere.
        let seen = tunnel.broker_counters()?;
        assert_eq!(seen.get("requests_to_host")?, 20);
        assert_eq!(seen.get("to_host")?, 25);
        assert_eq!(seen.get("from_host")?, 0);
    }
    for tunnel in lab.tunnels() {
        let limit = Duration::from_millis(500);
        assert!(!probe::tcp_connects(
            lab.outside(),
            tunnel.plan.address,
            limit
        )?);
    }
    // The number of TCP retransmissions is not fixed.
    assert!(lab.dropped_by_isp()? >= filtered + 2);
    Ok(())
}
