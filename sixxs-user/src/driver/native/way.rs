//! The way to the broker: its address, ours, and leave to go.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sixxs_core::{
    config::Remote,
    tunnel::{Driver as State, LockedOut},
};
use tokio::time::{sleep, timeout};

use super::{
    Work,
    kept::Kept,
    outside::{resolve, source_for},
};
use crate::{
    broker::connects::{Slot, Wait},
    clock::time_of_day,
};

/// Where there is no way, it is looked for again after so long, unless an address changes before.
const AGAIN: Duration = Duration::from_secs(30);

/// Whether there is a slot is asked again after so long: somebody may have changed the clock, or
/// the record.
const SLOT_AGAIN: Duration = Duration::from_secs(60);

/// A way that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Way {
    /// The broker.
    pub(super) remote: IpAddr,
    /// Our address.
    pub(super) source: IpAddr,
}

impl Work {
    /// Waits until there is a way and, if it counts as a connect, a slot for it. `last` is where the
    /// broker was.
    pub(super) async fn find_way(
        &mut self,
        remote: &Remote,
        local4: Option<Ipv4Addr>,
        last: Option<Way>,
        counts: bool,
    ) -> Way {
        loop {
            // What changes from here on is seen below.
            self.outside.mark_unchanged();
            match find(remote, local4, last).await {
                Ok(way) if !counts => return way,
                Ok(way) => match self.slot(remote, way.remote).await {
                    // It may have changed while we waited for the slot.
                    None if self.is_still(way, local4) => return way,
                    None => continue,
                    Some(pause) => sleep(pause).await,
                },
                Err(reason) => {
                    self.report.say(State::Working(Some(reason)));
                    self.wait_outside().await;
                }
            }
        }
    }

    /// How the broker was reached until a moment ago, if it will still take us for the same.
    pub(super) fn kept(
        &self,
        remote: &Remote,
        local4: Option<Ipv4Addr>,
        address: Ipv6Addr,
    ) -> Option<Kept> {
        let now = self.clock.now().elapsed;
        let kept = self
            .ways
            .load(&self.name, &remote.to_string(), address, now);
        kept.filter(|kept| self.is_still(kept.way, local4))
    }

    fn is_still(&self, way: Way, local4: Option<Ipv4Addr>) -> bool {
        source_for(way.remote, local4).is_ok_and(|source| source == way.source)
    }

    async fn wait_outside(&mut self) {
        // Either way it is time to look again.
        let _changed = timeout(AGAIN, self.outside.changed()).await;
    }

    /// Takes a slot; else says why not, and returns how long to wait.
    async fn slot(&self, remote: &Remote, address: IpAddr) -> Option<Duration> {
        let wait = match self.take_slot(remote, address).await {
            // It is used at once.
            Ok(Ok(_slot)) => return None,
            Ok(Err(wait)) => wait,
            Err(error) => {
                self.report.say(State::Retrying(format!("{error:#}")));
                return Some(SLOT_AGAIN);
            }
        };
        self.report.say(if wait.why.is_lockout() {
            State::LockedOut(LockedOut {
                until_unix: self
                    .clock
                    .unix_seconds()
                    .saturating_add(wait.remaining.as_secs()),
                reason: wait.to_string(),
            })
        } else {
            State::Working(Some(self.in_words(&wait)))
        });
        Some(wait.remaining.min(SLOT_AGAIN))
    }

    /// Until when there is no connect, and why: for a status that is read later.
    pub(super) fn in_words(&self, wait: &Wait) -> String {
        let seconds = self.clock.unix_seconds().saturating_add(wait.seconds());
        match time_of_day(seconds) {
            Some(until) => format!("no connect until {until}: {}", wait.why),
            // The clock is far off.
            None => wait.to_string(),
        }
    }

    /// Takes a slot, if there is one.
    pub(super) async fn take_slot(
        &self,
        remote: &Remote,
        address: IpAddr,
    ) -> anyhow::Result<Result<Slot, Wait>> {
        // Another tunnel may know the same broker by its other name.
        let names = [remote.to_string(), address.to_string()];
        self.connects
            .take_each(&names.each_ref().map(String::as_str))
            .await
    }
}

async fn find(remote: &Remote, local4: Option<Ipv4Addr>, last: Option<Way>) -> Result<Way, String> {
    let address = match (resolve(remote).await, last) {
        (Ok(address), _) => address,
        // Without an answer it is where it was.
        (Err(_), Some(last)) => last.remote,
        (Err(reason), None) => return Err(reason),
    };
    let source = source_for(address, local4).map_err(|error| no_way(&error, address, local4))?;
    Ok(Way {
        remote: address,
        source,
    })
}

fn no_way(error: &io::Error, remote: IpAddr, local4: Option<Ipv4Addr>) -> String {
    match (error.kind(), local4) {
        (io::ErrorKind::AddrNotAvailable, Some(local4)) => {
            format!("this host does not have the address {local4}")
        }
        (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable, _) => {
            format!("there is no route to the broker, {remote}")
        }
        _ => format!("reach the broker, {remote}: {error}"),
    }
}
