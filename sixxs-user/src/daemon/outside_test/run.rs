//! The requests of one direction: sends them, and waits for their arrival.

use std::{
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sixxs_common::outside_test::OutsideTest as Recorded;
use sixxs_core::{
    inside_test::request::Number,
    outside_test::{
        cause::RouterError,
        path_mtu::{PathMtu, Search},
        request::SMALL_BYTES,
        times::Results,
    },
    types::IfIndex,
};

use crate::{
    bpf::outside_test::{OutsideRequest, OutsideTester},
    daemon::readings::monotonic_ns,
};

/// Number of small requests in each direction.
const REQUESTS: usize = 10;

/// The time between two of them.
const PACE: Duration = Duration::from_millis(30);

/// Limit for the last one. No path on earth takes longer, without a queue that is too long.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(1);

/// Limits for a large request, of which the times of the small ones select one.
const LARGE_LIMITS: (Duration, Duration) = (Duration::from_millis(150), ARRIVAL_LIMIT);

/// How often a size is tried, so that one loss decides nothing; and if small requests were lost too.
const TRIES: usize = 3;
const TRIES_WITH_LOSS: usize = 8;

/// The time between two tries of a size.
const TRY_PACE: Duration = Duration::from_millis(5);

/// Limit for the search of the path MTU.
const SEARCH_LIMIT: Duration = Duration::from_secs(8);

/// The time for which the programs expect a request: longer than the daemon waits, so that a late one is not answered.
pub(super) const EXPECTED: Duration = Duration::from_secs(5);

/// The time between two looks for a request.
const INTERVAL: Duration = Duration::from_millis(1);

/// Distinguishes the requests from those of ping programs and of the inside test.
const IDENTIFIER: u16 = 0x786f;

/// One direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// The interface by which requests leave.
    pub(super) index: IfIndex,
    pub(super) next_hop: Option<Ipv6Addr>,
    /// The interface by which they should arrive.
    pub(super) arrives_by: IfIndex,
    /// The largest size.
    pub(super) mtu: u32,
}

/// The result of one direction.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) results: Results,
    /// Small requests that left.
    pub(super) left: u32,
    /// The index of another interface by which requests arrived.
    pub(super) elsewhere: Option<u32>,
    /// The first error about a small request.
    pub(super) error: Option<RouterError>,
    /// `None`: not searched.
    pub(super) path_mtu: Option<PathMtu>,
    /// The last Packet Too Big.
    pub(super) too_big: Option<RouterError>,
}

/// Sends requests of one direction.
pub(super) struct Run<'a> {
    tester: &'a OutsideTester,
    numbers: &'a Arc<AtomicU16>,
    path: Path,
}

impl<'a> Run<'a> {
    pub(super) const fn new(
        tester: &'a OutsideTester,
        numbers: &'a Arc<AtomicU16>,
        path: Path,
    ) -> Self {
        Self {
            tester,
            numbers,
            path,
        }
    }

    /// Tests one direction.
    pub(super) fn all(&self) -> anyhow::Result<Outcome> {
        let mut outcome = self.small()?;
        if let Some(times) = outcome.results.times() {
            let is_lossless = outcome.results.arrived() == outcome.results.sent;
            let tries = if is_lossless { TRIES } else { TRIES_WITH_LOSS };
            let limit = (times.most * 4).clamp(LARGE_LIMITS.0, LARGE_LIMITS.1);
            self.search(&mut outcome, tries, limit)?;
        }
        Ok(outcome)
    }

    fn small(&self) -> anyhow::Result<Outcome> {
        let mut requests = Vec::new();
        for _ in 0..REQUESTS {
            requests.push(self.send(SMALL_BYTES)?);
            thread::sleep(PACE);
        }
        let since = Instant::now();
        let recorded = loop {
            let read = requests.iter().map(|request| self.tester.read(request));
            let recorded = read.collect::<anyhow::Result<Vec<_>>>()?;
            let is_complete = recorded
                .iter()
                .all(|one| one.arrived_ns != 0 || one.error != 0);
            if is_complete || since.elapsed() >= ARRIVAL_LIMIT {
                break recorded;
            }
            thread::sleep(INTERVAL);
        };
        let arrived = recorded.iter().filter(|one| self.has_arrived(one));
        let times = arrived
            .map(|one| Duration::from_nanos(one.arrived_ns.saturating_sub(one.left_ns)))
            .collect();
        let count = |is: fn(&Recorded) -> bool| recorded.iter().filter(|one| is(one)).count();
        Ok(Outcome {
            results: Results::new(u32::try_from(REQUESTS)?, times),
            left: u32::try_from(count(|one| one.left_ns != 0))?,
            elsewhere: recorded
                .iter()
                .find(|one| one.arrived_ns != 0 && !self.has_arrived(one))
                .map(|one| one.arrived_ifindex),
            error: recorded.iter().find_map(error),
            ..Outcome::default()
        })
    }

    /// Whether a request arrived where it should.
    const fn has_arrived(&self, recorded: &Recorded) -> bool {
        recorded.arrived_ns != 0 && recorded.arrived_ifindex == self.path.arrives_by.0
    }

    fn search(&self, outcome: &mut Outcome, tries: usize, limit: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        let mut search = Search::new(self.path.mtu);
        while let Some(size) = search.next() {
            if since.elapsed() > SEARCH_LIMIT {
                break;
            }
            let (arrived, error) = self.large(size, tries, limit)?;
            let too_big = error.filter(|error| error.mtu().is_some());
            search.record(size, arrived, too_big.and_then(|error| error.mtu()));
            outcome.too_big = too_big.or(outcome.too_big);
        }
        outcome.path_mtu = search.result();
        Ok(())
    }

    /// Tries a size. Returns whether a request arrived, and the first error.
    fn large(
        &self,
        size: u32,
        tries: usize,
        limit: Duration,
    ) -> anyhow::Result<(bool, Option<RouterError>)> {
        let mut requests = Vec::new();
        let mut since = Instant::now();
        loop {
            if requests.len() < tries {
                requests.push(self.send(size)?);
                since = Instant::now();
                thread::sleep(TRY_PACE);
            }
            let read = requests.iter().map(|request| self.tester.read(request));
            let recorded = read.collect::<anyhow::Result<Vec<_>>>()?;
            let arrived = recorded.iter().any(|one| self.has_arrived(one));
            let all_failed = requests.len() == tries && recorded.iter().all(|one| one.error != 0);
            if arrived || all_failed || since.elapsed() >= limit {
                return Ok((arrived, recorded.iter().find_map(error)));
            }
            thread::sleep(INTERVAL);
        }
    }

    fn send(&self, bytes: u32) -> anyhow::Result<OutsideRequest> {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let request = OutsideRequest {
            source: self.path.source,
            destination: self.path.destination,
            number: Number {
                identifier: u16::from_be_bytes([high, low]) ^ IDENTIFIER,
                sequence: self.numbers.fetch_add(1, Ordering::Relaxed),
            },
            bytes,
            index: self.path.index,
            next_hop: self.path.next_hop,
        };
        self.tester.send(&request, EXPECTED, monotonic_ns()?)?;
        Ok(request)
    }
}

/// The error that a router sent about a request.
fn error(recorded: &Recorded) -> Option<RouterError> {
    let [_, _, kind, code] = recorded.error.to_be_bytes();
    (recorded.error != 0).then(|| RouterError {
        router: recorded.error_source.octets().into(),
        kind,
        code,
        value: recorded.error_value,
    })
}

#[cfg(test)]
mod tests {
    use sixxs_common::{address::Address, layout::NextHop, outside_test::IcmpError};

    use super::*;

    #[test]
    fn errors_are_read_back() {
        let router: Ipv6Addr = "2001:db8:a::1".parse().unwrap();
        let mut recorded = Recorded::new(7, 100, 3, NextHop::default());
        assert_eq!(error(&recorded), None);
        let too_big = IcmpError {
            kind: 2,
            code: 0,
            value: 1300,
        };
        recorded.fail(Address::from_octets(router.octets()), too_big);
        let found = error(&recorded).unwrap();
        assert_eq!((found.router, found.mtu()), (router, Some(1300)));
        assert_eq!((found.kind, found.code), (2, 0));
    }
}
