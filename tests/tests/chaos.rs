//! Random faults while traffic runs: short here, as long as one likes by `cargo xtask test chaos`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::chaos::act::{Act, Place, Port};
use sixxs_tests::chaos::plan::Step;
use sixxs_tests::chaos::{Options, Variant, on_host, run};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

/// For each kind of host, unless the command line says how many faults.
const USUAL: Duration = Duration::from_secs(16);

fn strike(variant: &Variant) -> Result<()> {
    let _alone = alone();
    run(variant, Options::from_environment(USUAL)?)
}

/// One at a time: repairs are timed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By TCX links, where the kernel has them.
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

/// What a daemon that stands still does not repair, none of these checks overlooks.
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

/// What the ISP drops while nobody took a program away counts against the program.
#[test]
fn what_is_lost_is_noticed() -> Result<()> {
    let _alone = alone();
    let struck = on_host(&usual(), |host, _, _| {
        host.suffer(&[at_once(Act::Freeze)])?;
        // Not by an act, so that there is no excuse.
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
