//! The daemon: one task owns the state, all others send it events.
//!
//! Three files compose, each on top of the next: [`daemon`] handles events and reports, [`operations`]
//! starts, stops and reloads, [`enforcer`] runs rounds. Below them each part owns its data, gets what
//! it needs as arguments and does not know the others. [`intent`] has the intended state, [`tunnels`] the
//! drivers, [`reconciler`] the host, [`tamper_log`] what others remove. [`leak_reports`], [`echo_health`]
//! and [`health`] have the health of tunnels, [`groups`] the link that carries the prefixes of a group, [`deprecator`] the
//! addresses of links that fail. [`history`], [`alerts`], [`problems`] and [`reload`] have what they are named after. [`endpoint_updates`] owns the tasks that report this
//! host's address, [`probes`] those that probe links. [`snapshot`] is the state as plain data; [`status`], [`observations`] and
//! [`metrics_snapshot`] are functions of it.
//!
//! Tasks, besides the one in [`run`]:
//! * the control server ([`crate::control`]): `listeners` starts it, and aborts it when the daemon ends;
//! * the servers of the metrics and the page ([`crate::http`]): `listeners` starts one for each address in the
//!   configuration; it ends with the daemon or with that setting;
//! * one per alert hook ([`crate::hooks`]): [`alerts`] starts it with the configuration of the hook; it ends
//!   with that configuration or with the daemon;
//! * one per stop of drivers: [`operations`] starts it; it ends when the drivers have stopped, and the daemon
//!   waits for it at its end;
//! * one per request for inside tests that counts their results for the history: [`history`] starts it, and it ends with the
//!   answer;
//! * one per request for inside tests, with a thread that carries them out: [`operations`] starts it, and it ends when
//!   it has answered;
//! * one per request for outside tests: [`operations`] starts it, and it ends when it has answered or the client has gone;
//! * one per reload by a signal and per revert, which logs the outcome and ends;
//! * one that prunes the record of connects: [`start`] starts it; the end of the daemon aborts it;
//! * a driver's own tasks, if it has any ([`crate::driver`]);
//! * one per tunnel with endpoint updates, and one that counts changes of addresses for them: [`endpoint_updates`]
//!   starts them, and they end with it;
//! * one per link that is probed: [`probes`] starts it, and it ends with it or when the link is not up;
//! * the netlink connection ([`crate::netlink`]), which ends when its `Netlink` is dropped.
//!
//! Threads:
//! * "tunnels", the I/O thread of native tunnels: the first native tunnel starts it; it ends with the process;
//! * "history", which writes the history: [`history`] starts it; it ends with the last batch after its [`history::History`];
//! * "fd-store", which passes descriptors to systemd: [`start`] starts it under systemd; it ends with the last
//!   handle of the store;
//! * "outside-test", one per request for outside tests, and those that it starts for each direction: the request's task starts it,
//!   and it ends a moment after the tests, or with the process;
//! * those that load the programs: [`start`] starts them, and waits for them.
//!
//! Programs, maps, rules and routes stay in place when the daemon ends: enforcement outlives it. `sixxs
//! down` removes them, and so does the end of an idle daemon that was started on demand.

mod alerts;
mod control_groups;
#[expect(
    clippy::module_inception,
    reason = "the composition beside its parts; the module around them has the same subject"
)]
mod daemon;
mod deprecator;
mod echo_health;
mod ending;
mod endpoint_updates;
mod enforcer;
mod event;
#[cfg(test)]
mod fixture;
mod group_status;
mod groups;
mod health;
mod history;
mod inside_monitor;
mod inside_test;
mod intent;
mod leak_details;
mod leak_reports;
mod listeners;
mod metrics_snapshot;
mod observations;
mod operations;
mod outer_traffic;
mod outside_test;
mod probes;
mod problems;
mod readings;
mod reconciler;
mod reload;
mod routes;
mod snapshot;
mod start;
mod status;
mod systemd;
mod tamper_log;
mod tunnels;
mod wireguard;

use sixxs_core::config::Config;
use tracing::warn;

use crate::{
    bpf::HookChoice, host::kernel_support, host::netns_lock, host::paths::Paths, host::run_dir,
};

/// How a daemon is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which hook the programs use.
    pub hook: HookChoice,
    /// Whether to log the debugging output of the programs.
    pub program_log: bool,
    /// Whether requests may move the clock.
    pub movable_clock: bool,
    /// Whether to end with the last tunnel that was added at run time.
    pub on_demand: bool,
}

/// Why a daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a signal or a request.
    Ordered,
    /// Nothing was left to do.
    Idle,
}

/// Runs until a signal or a request ends it.
pub async fn run(paths: &Paths, config: Config, options: &Options) -> anyhow::Result<End> {
    for note in kernel_support::check()? {
        warn!("{note}");
    }
    let _lock = run_dir::lock(paths)?;
    let _claim = netns_lock::acquire()?;
    let (mut daemon, mut sources) = start::start(paths, config, options).await?;
    let ending = daemon.work(&mut sources).await?;
    daemon.shut_down(sources, ending).await
}
