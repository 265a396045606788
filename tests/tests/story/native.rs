//! Native tunnels of each kind, with brokers that share no code with the program: every reply takes its
//! tunnel.

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;

use crate::setting::Setting;

/// Makes one test of a scenario for each pair of kinds.
macro_rules! pairs {
    ($scene:ident: $($name:ident($first:ident, $second:ident)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                $scene([Kind::$first, Kind::$second])
            }
        )+
    };
}

pairs!(every_reply_takes_its_tunnel:
    ayiya_and_heartbeat(Ayiya, Heartbeat), six_in_four_and_ayiya(SixInFour, Ayiya));

fn every_reply_takes_its_tunnel(kinds: [Kind; 2]) -> Result<()> {
    let setting = Setting::of(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = setting.start()?;
    setting.is_up()?;
    for tunnel in setting.lab.tunnels() {
        setting
            .outside_is_answered(tunnel)
            .with_context(|| daemon.log())?;
    }
    setting.nothing_went_astray()?;
    let status = setting.program.status()?;
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
