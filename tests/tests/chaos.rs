//! Random faults during traffic. They are few here; `cargo xtask test chaos` runs any number.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::chaos::act::{Act, Place, Port};
use sixxs_tests::chaos::plan::Step;
use sixxs_tests::chaos::{Options, Variant, on_host, run};
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::topology::Flavour;

/// Duration for each kind of host, unless the command line sets the number of faults.
const USUAL: Duration = Duration::from_secs(16);

fn strike(variant: &Variant) -> Result<()> {
    let _alone = alone();
    run(variant, Options::from_environment(USUAL)?)
}

/// Runs one test at a time, because repairs are timed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With TCX links, where the kernel has them.
fn usual() -> Variant {
    Variant {
        name: "tcx",
        spec: Spec::new(Flavour::Tun),
        hook: Hook::Auto,
        uplink_is_named: false,
    }
}

#[test]
fn chaos_by_tcx() -> Result<()> {
    strike(&usual())
}

#[test]
fn chaos_by_clsact() -> Result<()> {
    strike(&Variant {
        name: "clsact",
        spec: Spec::new(Flavour::Veth),
        hook: Hook::Clsact,
        uplink_is_named: false,
    })
}

#[test]
fn chaos_native() -> Result<()> {
    strike(&Variant {
        name: "native",
        spec: Spec::native([Kind::Ayiya, Kind::SixInFour]),
        hook: Hook::Auto,
        uplink_is_named: true,
    })
}

/// The checks detect all faults that a stopped daemon does not repair.
#[test]
fn what_is_not_repaired_is_noticed() -> Result<()> {
    let _alone = alone();
    on_host(&usual(), |host, _, _| {
        for act in [
            Act::FlushRules,
            Act::DeleteRoute(0),
            Act::Detach(Place::ALL[0]),
            Act::DeleteMapPin(0),
            Act::DeletePins,
        ] {
            let steps = [Act::Freeze, act].map(at_once);
            host.suffer(&steps)?;
            let soon = Duration::from_millis(200);
            let noticed = match act {
                Act::DeleteMapPin(_) | Act::DeletePins => host.is_pinned_again(soon),
                _ => host.is_whole_within(soon),
            };
            assert!(noticed.is_err(), "{act} was not noticed");
            host.suffer(&[at_once(Act::Thaw)])?;
            host.is_whole_again()?;
        }
        Ok(())
    })
}

/// Packets that the ISP drops are an error, unless a fault has detached a program.
#[test]
fn what_is_lost_is_noticed() -> Result<()> {
    let _alone = alone();
    let struck = on_host(&usual(), |host, _, _| {
        host.suffer(&[at_once(Act::Freeze)])?;
        // Not as a fault, because faults excuse lost packets.
        host.programs().detach(Place::egress(Port::Uplink))?;
        let noticed = host.is_whole_within(Duration::from_millis(200));
        assert!(noticed.is_err(), "the program is away");
        host.suffer(&[at_once(Act::Thaw), at_once(Act::FlushRules)])?;
        host.is_whole_again()
    });
    let error = format!("{:#}", struck.err().context("it was overlooked")?);
    assert!(
        error.contains("although nobody took the program at net0 egress away"),
        "{error}"
    );
    Ok(())
}

fn at_once(act: Act) -> Step {
    Step {
        pause: Duration::ZERO,
        act,
    }
}
