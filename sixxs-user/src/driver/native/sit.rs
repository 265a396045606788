//! IPv6 in IPv4 by the kernel's own `sit`: packets never come here, only heartbeats leave.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use sixxs_core::{
    config::{Remote, SixInFour, Tunnel},
    tunnel::Driver as State,
    types::IfIndex,
};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{AGAIN, LONGEST_SLEEP, Pause, Work, beating::Beating, outside::source_for, way::Way};
use crate::{
    driver::backoff::Backoff,
    netlink::{
        Netlink,
        sit::{Ends, NoSit},
    },
};

/// What carries a tunnel, in status.
const SIT: &str = "sit";

impl Work {
    /// Keeps a tunnel up by `sit`; ends only if the kernel has none.
    pub(super) async fn keep_sit(&mut self, tunnel: &Tunnel, outer: &SixInFour) {
        let mut backoff = Backoff::default();
        let Some(address) = tunnel.addresses.first().map(|a| a.address) else {
            self.report
                .say(State::Failed("its addresses are not known".to_owned()));
            return std::future::pending().await;
        };
        loop {
            let ends = Ends {
                local: outer.local4,
                remote: outer.remote4,
            };
            let made = match Netlink::open() {
                Ok(netlink) => netlink.sit(&self.name, ends).await,
                Err(error) => Err(NoSit::Other(error)),
            };
            let index = match made {
                Ok(index) => index,
                Err(NoSit::Unsupported) => return,
                Err(error) => {
                    self.report.say(State::Retrying(format!("{error:#}")));
                    sleep(backoff.failed()).await;
                    continue;
                }
            };
            self.interface = Some(index);
            self.report.made(true);
            let began = Instant::now();
            self.beat_for(index, outer, address).await;
            self.report.made(false);
            // Whoever took it away may take the next one away as well.
            sleep(backoff.lost(began.elapsed())).await;
        }
    }

    /// Tells the broker where we are, until the interface is lost.
    async fn beat_for(&mut self, index: IfIndex, outer: &SixInFour, address: Ipv6Addr) {
        let remote = Remote::Address(IpAddr::V4(outer.remote4));
        let mut seen = self.seen.clone();
        let lost = Self::lost(&mut seen, index);
        tokio::pin!(lost);
        let mut kept = self.kept(&remote, outer.local4, address);
        loop {
            let counts = outer.heartbeat.is_some();
            let before = kept.take();
            let way = match &before {
                Some(kept) => kept.way,
                None => tokio::select! {
                    () = &mut lost => return,
                    way = self.find_way(&remote, outer.local4, None, counts) => way,
                },
            };
            let beating = match &outer.heartbeat {
                None => Ok(None),
                Some(heartbeat) => {
                    let beating = Beating::open(heartbeat, address, way, self.clock.clone());
                    beating.map(|mut beating| {
                        if let Some(before) = &before {
                            beating.go_on(before);
                        }
                        Some(beating)
                    })
                }
            };
            let waited = match beating {
                Ok(beating) => {
                    self.report.endpoint(way.remote, SIT);
                    tokio::select! {
                        () = &mut lost => return,
                        waited = self.beat_on(way, outer, beating) => waited,
                    }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = waited {
                debug!("{}: {error}", self.name);
                self.report.say(State::Working(Some(error.to_string())));
                sleep(AGAIN).await;
            }
        }
    }

    async fn beat_on(
        &mut self,
        way: Way,
        outer: &SixInFour,
        mut beating: Option<Beating<'_>>,
    ) -> io::Result<Pause> {
        loop {
            let pause = match &mut beating {
                Some(beating) => beating.beat(&self.ways, &self.name)?,
                None => LONGEST_SLEEP,
            };
            self.report.say(State::Done);
            tokio::select! {
                () = sleep(pause) => {}
                changed = self.outside.changed() => {
                    if changed.is_ok()
                        && source_for(way.remote, outer.local4).ok() != Some(way.source)
                    {
                        return Ok(Pause::WayLost);
                    }
                }
            }
        }
    }
}
