//! The fixture of the scenarios: a lab with services, a configuration and the program, and common checks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::lab::{Lab, Spec, Tunnel};
use sixxs_tests::probe;
use sixxs_tests::probe::service::Services;
use sixxs_tests::program::owned_state;
use sixxs_tests::program::status;
use sixxs_tests::program::{Daemon, Hook, Output, Program, finish};
use sixxs_tests::wait;

/// The default priority of the program's rules.
pub(crate) const RULE_PRIORITY: u32 = 16383;

/// A lab with a configuration, services on both sides, and the program, not started yet.
pub(crate) struct Fixture {
    pub(crate) program: Program,
    outside_services: Services,
    host_services: Services,
    pub(crate) lab: Lab,
}

impl Fixture {
    pub(crate) fn new(flavour: Flavour, hook: Hook) -> Result<Self> {
        Self::with_spec(Spec::new(flavour), hook, "")
    }

    /// Builds any kind of lab, and puts `extra` at the top of the configuration.
    pub(crate) fn with_spec(spec: Spec, hook: Hook, extra: &str) -> Result<Self> {
        let lab = Lab::new(spec)?;
        lab.write_config(&lab.config(extra))?;
        let program = Program::new(&lab, hook)?;
        let addresses = lab.tunnels().each_ref().map(|t| t.plan.address);
        let outside_services = Services::start(lab.outside(), &[])?;
        let host_services = Services::start(lab.host(), &addresses)?;
        Ok(Self {
            program,
            outside_services,
            host_services,
            lab,
        })
    }

    pub(crate) fn host(&self) -> &Namespace {
        self.lab.host()
    }

    /// Directory of the host's pins.
    pub(crate) fn pins(&self) -> Result<PathBuf> {
        self.pins_in(&self.lab.paths().pins())
    }

    /// The host's pins below another pin directory.
    pub(crate) fn pins_in(&self, pin_dir: &Path) -> Result<PathBuf> {
        Ok(pin_dir.join(format!("net-{}", self.host().cookie()?)))
    }

    /// Directory of the host's pins of the present layout.
    pub(crate) fn layout_dir(&self) -> Result<PathBuf> {
        let version = format!("v{}", sixxs_common::layout::VERSION);
        Ok(self.pins()?.join(version))
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Daemon> {
        self.program.start()
    }

    /// Waits until both tunnels are up and complete, and their addresses accept packets.
    pub(crate) fn wait_until_up(&self) -> Result<()> {
        self.program
            .status_until("both tunnels are whole", |status| {
                status.tunnels.len() == 2 && status.tunnels.iter().all(status::Tunnel::is_whole)
            })?;
        self.wait_for_addresses()
    }

    /// Checks ping, UDP and TCP from outside to one tunnel's address. Every reply must pass the broker.
    /// Returns the number of pings.
    pub(crate) fn ensure_outside_answered(&self, tunnel: &Tunnel) -> Result<u64> {
        self.wait_for_addresses()?;
        let pings = self.ensure_pings_answered(tunnel)?;
        self.ensure_udp_answered(tunnel)?;
        self.ensure_tcp_transfers(tunnel)?;
        Ok(pings)
    }

    /// Checks that the tunnel answers all pings, and that requests and replies pass the broker. Returns the
    /// number of pings.
    fn ensure_pings_answered(&self, tunnel: &Tunnel) -> Result<u64> {
        let count = 20;
        let address = tunnel.plan.address;
        let before = tunnel.broker_counters()?;
        let host_before = self.host().counts()?;
        let pings = probe::ping(self.lab.outside(), address, count)?;
        let after = tunnel.broker_counters()?;
        if pings.sent != count || !pings.all_answered() {
            let host = self.host().counts()?;
            bail!(
                "ping {address}: {pings:?}; at {}: {before:?}, then {after:?}; at the host: {}",
                tunnel.plan.pop,
                host_before.changes(&host)
            );
        }
        for name in ["requests_to_host", "replies_from_host"] {
            let seen = after.get(name)? - before.get(name)?;
            ensure!(seen == count, "{name} of {}: {seen}", tunnel.plan.pop);
        }
        Ok(count)
    }

    fn ensure_udp_answered(&self, tunnel: &Tunnel) -> Result<()> {
        let address = tunnel.plan.address;
        for size in [100, 1200] {
            let answered = probe::udp_echo(self.lab.outside(), address, 5, size, true)?;
            ensure!(
                answered == 5,
                "udp echo of {size} bytes from {address}: {answered} of 5"
            );
        }
        Ok(())
    }

    /// Checks that TCP transfers a megabyte in both directions.
    fn ensure_tcp_transfers(&self, tunnel: &Tunnel) -> Result<()> {
        let (address, outside) = (tunnel.plan.address, self.lab.outside());
        let limit = Duration::from_secs(10);
        probe::tcp_transfer(outside, address, 1_000_000, 1_000_000, limit)
            .with_context(|| format!("tcp with {address}"))?;
        Ok(())
    }

    /// Waits until the host accepts packets to all its addresses. The kernel lists an address before that,
    /// also without duplicate address detection, because a work queue completes it.
    pub(crate) fn wait_for_addresses(&self) -> Result<()> {
        let tentative = || self.host().sh("ip -6 -oneline address show tentative");
        let limit = Duration::from_secs(5);
        wait::until("addresses are taken", limit, tentative, String::is_empty)?;
        Ok(())
    }

    /// Checks that neither the ISP nor a broker dropped a packet.
    pub(crate) fn ensure_nothing_lost(&self) -> Result<()> {
        let dropped = self.lab.dropped_by_isp()?;
        ensure!(dropped == 0, "the ISP dropped {dropped} packets");
        for tunnel in self.lab.tunnels() {
            let strays = tunnel.broker_counters()?.get("strays")?;
            ensure!(strays == 0, "{} dropped {strays} packets", tunnel.plan.pop);
        }
        Ok(())
    }

    /// Datagrams received by the discard port of the outside host.
    pub(crate) fn discarded(&self) -> u64 {
        self.outside_services.discarded()
    }

    /// Datagrams received by the discard port of the host.
    pub(crate) fn host_discarded(&self) -> u64 {
        self.host_services.discarded()
    }

    /// Waits until the host's discard port has received `count` datagrams.
    pub(crate) fn wait_for_host_discards(&self, count: u64) -> Result<()> {
        let seen = || Ok(self.host_discarded());
        let limit = Duration::from_secs(5);
        wait::until("datagrams come", limit, seen, |seen| *seen == count)?;
        Ok(())
    }

    /// Packets that each broker received from the host through its tunnel.
    pub(crate) fn reached_brokers(&self) -> Result<[u64; 2]> {
        let [first, second] = self.lab.tunnels();
        Ok([first, second].map(|t| t.broker_counters().and_then(|seen| seen.get("from_host"))))
            .and_then(|[first, second]| Ok([first?, second?]))
    }

    /// Clears the host's path MTU cache, which has an entry per destination for all its addresses.
    pub(crate) fn forget_path_mtu(&self) -> Result<()> {
        self.host().sh("ip -6 route flush cache")?;
        Ok(())
    }

    /// The rules with the program's mark.
    pub(crate) fn own_rules(&self) -> Result<String> {
        owned_state::rules(self.host())
    }

    /// The routes with the program's mark, in all tables.
    pub(crate) fn own_routes(&self) -> Result<String> {
        owned_state::routes(self.host())
    }

    /// Deletes all rules with the program's mark, as a network manager does. A running daemon may restore
    /// them before this returns.
    pub(crate) fn delete_own_rules(&self) -> Result<()> {
        for line in self.own_rules()?.lines() {
            self.host().sh(&owned_state::delete_rule(line)?)?;
        }
        Ok(())
    }
}

/// A configuration whose first tunnel is configured by its account, and the second one in full.
pub(crate) fn mixed_config(lab: &Lab, extra: &str) -> Result<String> {
    const BEGIN: &str = "\n[[tunnel]]";
    let (by_account, whole) = (lab.write_aiccu_confs(extra, true)?, lab.config(""));
    let mut parts = by_account.split(BEGIN);
    let (top, first) = (parts.next(), parts.next());
    let parts = [top, first, whole.split(BEGIN).nth(2)];
    let parts = parts.into_iter().collect::<Option<Vec<_>>>();
    Ok(parts.context("a lab has two tunnels")?.join(BEGIN))
}

/// Lock for tests that use a whole processor or measure time.
pub(crate) fn exclusive() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value without ages, which change by themselves.
pub(crate) fn without_ages(value: &Value) -> Value {
    let Some(fields) = value.as_object() else {
        return value.clone();
    };
    let lasting = fields.iter().filter(|(key, _)| !key.contains("seconds"));
    Value::Object(
        lasting
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

/// Runs the program as a member of the group that may read, while a daemon runs.
pub(crate) fn run_as_member(arguments: &[&str]) -> Result<Output> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let run = fixture.program.command(&["--group", "daemon", "run"]);
    let _daemon = fixture.program.start_as(run)?;
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    let mut member = Command::new("setpriv");
    member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
    member.arg(&copy).args(arguments);
    fixture.program.apply_environment(&mut member);
    finish(&mut member).context("run it as nobody")
}
