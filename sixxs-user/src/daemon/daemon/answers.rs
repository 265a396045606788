//! Answers the requests of clients.

use std::collections::BTreeMap;

use sixxs_core::broker::connects::Standing;

use super::{
    super::{
        leak_details::recursion,
        metrics_snapshot,
        readings::{Readings, echo_times},
        snapshot::Snapshot,
        status,
    },
    Daemon,
};
use crate::control::{Request, api};

impl Daemon {
    /// Problems of the present that no scan finds: recursive packets.
    fn recursions(&self) -> impl Iterator<Item = String> {
        let now = self.now();
        let slots = self.programs().slots().iter();
        slots.filter_map(move |(name, slot)| {
            let flow = self.leak_reports.recursion(*slot, now)?;
            let cause = recursion(name, flow);
            let (why, cure) = (cause.sentence(), cause.cure());
            Some(format!("{name}: packets are dropped: {why}; {cure}"))
        })
    }

    /// A snapshot for clients: with echo times, and with how each broker limits connects.
    async fn full_snapshot(&self) -> anyhow::Result<(Snapshot<'_>, BTreeMap<String, Standing>)> {
        let read = self.operations.context.connects.standings().await;
        let mut snapshot = self.snapshot()?;
        snapshot.echo_times = echo_times(self.programs(), &snapshot.readings)?;
        let standings = read.unwrap_or_else(|error| {
            snapshot.problems.push(format!("{error:#}"));
            Default::default()
        });
        snapshot.problems.extend(self.recursions());
        Ok((snapshot, standings))
    }

    async fn status(&self) -> anyhow::Result<api::Status> {
        let (snapshot, standings) = self.full_snapshot().await?;
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        Ok(status::status(&snapshot, standings, now))
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let (snapshot, standings) = self.full_snapshot().await?;
        let others = metrics_snapshot::Others {
            standings,
            repairs: self.enforcer().repair_times().clone(),
            hooks_dropped: self.enforcer().alerts.dropped(),
            now: jiff::Timestamp::now(),
        };
        Ok(metrics_snapshot::metrics(&snapshot, others).write()?)
    }

    fn counters(&self) -> anyhow::Result<api::Counters> {
        let programs = self.programs();
        let readings = Readings::read(programs, programs.slots().keys())?;
        Ok(status::counters(&readings))
    }

    /// Carries out the request of a client, and sends the result.
    pub(super) async fn answer(&mut self, request: Request) {
        // A client that has gone misses the answer.
        match request {
            Request::Status(answer) => {
                let _gone = answer.send(self.status().await);
            }
            Request::Counters(answer) => {
                let _gone = answer.send(self.counters());
            }
            Request::Metrics(answer) => {
                let _gone = answer.send(self.metrics().await);
            }
            Request::Alerts(answer) => {
                let _gone = answer.send(self.operations.enforcer.alerts.subscribe());
            }
            Request::Plan(answer) => {
                let _gone = answer.send(self.operations.plan().await);
            }
            Request::Preview(asked, answer) => {
                let _gone = answer.send(self.operations.preview(asked).await);
            }
            Request::Reload(confirm_within, answer) => {
                self.operations.reload(confirm_within, answer).await
            }
            Request::Confirm(answer) => {
                let _gone = answer.send(self.operations.trial.confirm());
            }
            Request::Account(verb, file, answer) => {
                self.operations.control_account(verb, file, answer).await
            }
            Request::Inside(asked, answer) => self.operations.test_inside(&asked, answer),
            Request::Live(asked, answer) => {
                let _gone = answer.send(self.operations.live_test(asked));
            }
            Request::Outside(asked, answer) => self.operations.test_outside(&asked, answer),
            Request::Tunnels(verb, names, answer) => {
                self.operations.control_tunnels(verb, names, answer).await
            }
        }
    }
}
