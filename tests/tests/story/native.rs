//! Native tunnels of each kind, against brokers that share no code with the program.

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// Makes tests of the scenario, one per pair of kinds and carrier.
macro_rules! pairs {
    ($scenario:ident: $($name:ident($first:ident, $second:ident, $carrier:expr)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                $scenario([Kind::$first, Kind::$second], $carrier)
            }
        )+
    };
}

pairs!(every_reply_takes_its_tunnel:
    ayiya_and_heartbeat(Ayiya, Heartbeat, None),
    six_in_four_and_ayiya(SixInFour, Ayiya, None),
    both_by_programs(SixInFour, Heartbeat, Some("ebpf")),
    both_by_the_daemon(SixInFour, Heartbeat, Some("tun")),
    both_by_sit(SixInFour, Heartbeat, Some("sit")));

/// The carrier of a 6in4 tunnel on this kernel, for a `carrier` in the configuration. The daemon carries it where the
/// kernel cannot.
pub(crate) fn carrier_of(wanted: Option<&str>) -> Result<&'static str> {
    Ok(match wanted {
        None | Some("ebpf") if kernel::has_decapsulation()? => "ebpf",
        None | Some("sit") if kernel::has_sit() => "sit",
        _ => "tun",
    })
}

fn every_reply_takes_its_tunnel(kinds: [Kind; 2], carrier: Option<&'static str>) -> Result<()> {
    let spec = Spec {
        carrier,
        ..Spec::native(kinds)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    for tunnel in fixture.lab.tunnels() {
        fixture
            .ensure_outside_answered(tunnel)
            .with_context(|| daemon.log())?;
    }
    fixture.ensure_nothing_lost()?;
    let status = fixture.program.status()?;
    for (tunnel, kind) in status.tunnels.iter().zip(kinds) {
        assert!(tunnel.is_whole(), "{tunnel:#?}");
        assert_eq!(tunnel.kind, kind.name());
        // The check comes after the start, when the daemon has loaded the module if the kernel has it.
        let expected = match kind {
            Kind::Ayiya => "tun",
            Kind::SixInFour | Kind::Heartbeat => carrier_of(carrier)?,
        };
        assert_eq!(tunnel.carrier.as_deref(), Some(expected), "{tunnel:#?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
