//! Random faults while traffic runs. The runs are short here; `cargo xtask test chaos` sets their length.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::chaos::fault::{Action, AttachPoint, Port};
use sixxs_tests::chaos::plan::Step;
use sixxs_tests::chaos::{Length, Options, Variant, on_host, renumber, run};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

/// Duration for each kind of host, unless the command line sets the number of faults.
const USUAL: Duration = Duration::from_secs(16);

fn inject(variant: &Variant) -> Result<()> {
    let _exclusive = exclusive();
    run(variant, Options::from_environment(USUAL)?)
}

/// Runs one test at a time, because repairs are timed.
fn exclusive() -> MutexGuard<'static, ()> {
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
    inject(&usual())
}

#[test]
fn chaos_by_clsact() -> Result<()> {
    inject(&Variant {
        name: "clsact",
        spec: Spec::new(Flavour::Veth),
        hook: Hook::Clsact,
        uplink_is_named: false,
    })
}

#[test]
fn chaos_native() -> Result<()> {
    inject(&Variant {
        name: "native",
        spec: Spec::native([Kind::Ayiya, Kind::SixInFour]),
        hook: Hook::Auto,
        uplink_is_named: true,
    })
}

/// A link gets one new address after the other.
#[test]
fn chaos_by_renumbering() -> Result<()> {
    let _exclusive = exclusive();
    let count = match Options::from_environment(USUAL)?.length {
        Length::Faults(count) => count,
        Length::Time(_) => 40,
    };
    renumber(&usual(), count)
}

/// Each check reports damage that a stopped daemon does not repair.
#[test]
fn what_is_not_repaired_is_noticed() -> Result<()> {
    let _exclusive = exclusive();
    on_host(&usual(), |host, _, _| {
        for action in [
            Action::FlushRules,
            Action::DeleteRoute(0),
            Action::Detach(AttachPoint::ALL[0]),
            Action::DeleteMapPin(0),
            Action::DeletePins,
        ] {
            let steps = [Action::Freeze, action].map(at_once);
            host.apply(&steps)?;
            let soon = Duration::from_millis(200);
            let noticed = match action {
                Action::DeleteMapPin(_) | Action::DeletePins => host.wait_until_pinned(soon),
                _ => host.wait_until_repaired_within(soon),
            };
            assert!(noticed.is_err(), "{action} was not noticed");
            host.apply(&[at_once(Action::Thaw)])?;
            host.wait_until_repaired()?;
        }
        Ok(())
    })
}

/// Packets that the ISP drops are an error unless an action removed a program.
#[test]
fn what_is_lost_is_noticed() -> Result<()> {
    let _exclusive = exclusive();
    let outcome = on_host(&usual(), |host, _, _| {
        host.apply(&[at_once(Action::Freeze)])?;
        // Not by an action, so that there is no excuse.
        host.programs().detach(AttachPoint::egress(Port::Uplink))?;
        let noticed = host.wait_until_repaired_within(Duration::from_millis(200));
        assert!(noticed.is_err(), "the program is away");
        host.apply(&[at_once(Action::Thaw), at_once(Action::FlushRules)])?;
        host.wait_until_repaired()
    });
    let error = format!("{:#}", outcome.err().context("it was overlooked")?);
    assert!(
        error.contains("although nobody took the program at net0 egress away"),
        "{error}"
    );
    Ok(())
}

fn at_once(action: Action) -> Step {
    Step {
        pause: Duration::ZERO,
        action,
    }
}
