//! Native tunnels of each kind, against brokers that share no code with the program.

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// Makes tests of the scenario, one per pair of kinds.
macro_rules! pairs {
    ($scenario:ident: $($name:ident($first:ident, $second:ident)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                $scenario([Kind::$first, Kind::$second])
            }
        )+
    };
}

pairs!(every_reply_takes_its_tunnel:
    ayiya_and_heartbeat(Ayiya, Heartbeat), six_in_four_and_ayiya(SixInFour, Ayiya));

fn every_reply_takes_its_tunnel(kinds: [Kind; 2]) -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
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
        let in_kernel = kind != Kind::Ayiya && kernel::has_sit();
        let carrier = if in_kernel { "sit" } else { "tun" };
        assert_eq!(tunnel.carrier.as_deref(), Some(carrier), "{tunnel:#?}");
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
