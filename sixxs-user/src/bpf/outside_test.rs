//! Outside tests: puts their requests into the egress of a link, and reads what the programs record.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv6Addr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use aya::maps::{Array, MapData};
use sixxs_common::{
    layout::{AF_INET6, NextHop},
    outside_test::{OutsideTest, entry_index},
};
use sixxs_core::{
    inside_test::request::{Message, Number},
    outside_test::request::frame,
    types::IfIndex,
};

use super::{
    Kernel,
    inside_test::{Expected, INJECT, Switch, Testers, array},
    pod::Raw,
    syscall::create_link,
    test_run,
};
use crate::netlink::tc::Direction;

/// The program that receives at an uplink while an outside test runs.
pub(super) const LISTEN: &str = "sixxs_listen";

/// The map of the tests.
const TESTS: &str = "OUTSIDE_TESTS";

/// The attach type `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

/// `BPF_F_BEFORE`; without another program: before all others.
const FIRST: u32 = 1 << 3;

/// Carries out tests, in any thread of this network namespace.
pub struct OutsideTester {
    inject: OwnedFd,
    tests: Mutex<Array<MapData, Raw<OutsideTest>>>,
    _switch: Switch,
    /// The links of programs at the ingress of uplinks that have none otherwise. The kernel removes a program with the last
    /// descriptor, also when the daemon is killed.
    listeners: Vec<Arc<OwnedFd>>,
}

/// The links of such programs that exist, which all testers share: the kernel attaches a program only once to an interface.
pub(crate) type Listeners = Arc<Mutex<BTreeMap<IfIndex, Weak<OwnedFd>>>>;

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct OutsideRequest {
    /// Its source: an address of the link by which it leaves.
    pub source: Ipv6Addr,
    /// Its destination: an address of the other link.
    pub destination: Ipv6Addr,
    /// Its number. Two requests at a time have different sequence numbers, modulo the number of slots.
    pub number: Number,
    /// Its length, without the link layer.
    pub bytes: u32,
    /// The interface by which it leaves.
    pub index: IfIndex,
    /// The next hop, where that has a link layer.
    pub next_hop: Option<Ipv6Addr>,
}

impl OutsideRequest {
    /// The number by which the programs recognise it.
    const fn word(&self) -> u32 {
        Message::Echo(self.number).word()
    }

    fn tag(&self) -> u64 {
        let expected = Expected {
            local: self.destination,
            remote: self.source,
            word: self.word(),
        };
        expected.tag()
    }
}

impl Kernel {
    /// What carries out outside tests, with the programs and the maps of this run. The inside tests have the same
    /// `testers`.
    pub fn outside_tester(&self, testers: &Testers) -> anyhow::Result<OutsideTester> {
        Ok(OutsideTester {
            inject: self.descriptor(INJECT)?,
            tests: Mutex::new(array(&self.ebpf, TESTS)?.try_into()?),
            _switch: Switch::on(&self.ebpf, testers)?,
            listeners: Vec::new(),
        })
    }

    /// Whether a program is attached to the ingress of an interface.
    #[must_use]
    pub fn listens(&self, index: IfIndex) -> bool {
        self.attachments.hook(index, Direction::Ingress).is_some()
    }

    /// Adds a program at the ingress of an uplink, while the tester exists. Kernel 6.6.
    pub fn listen(
        &self,
        tester: &mut OutsideTester,
        listeners: &Listeners,
        uplink: IfIndex,
    ) -> anyhow::Result<()> {
        let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, link| link.strong_count() > 0);
        let link = match listeners.get(&uplink).and_then(Weak::upgrade) {
            Some(link) => link,
            None => {
                let program = self.descriptor(LISTEN)?;
                let link = create_link(program.as_fd(), uplink.0, TCX_INGRESS, FIRST).map_err(
                    |error| {
                        let is_old =
                            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
                        let hint = if is_old { " (it needs Linux 6.6)" } else { "" };
                        anyhow::Error::new(error).context(format!("attach one{hint}"))
                    },
                )?;
                let link = Arc::new(link);
                listeners.insert(uplink, Arc::downgrade(&link));
                link
            }
        };
        tester.listeners.push(link);
        Ok(())
    }
}

impl OutsideTester {
    /// Begins a test: the programs expect the request for this time. Then sends it. An error means that the kernel has not
    /// taken it.
    pub fn send(
        &self,
        request: &OutsideRequest,
        limit: Duration,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let until_ns = now_ns.saturating_add(u64::try_from(limit.as_nanos())?);
        let next_hop = request
            .next_hop
            .map_or_else(NextHop::default, |address| NextHop {
                family: AF_INET6,
                octets: address.octets(),
            });
        let test = OutsideTest::new(request.tag(), until_ns, request.index.0, next_hop);
        let written = self.tests().set(entry_index(request.word()), Raw(test), 0);
        written.context("write an outside test")?;
        let frame = frame(
            request.source,
            request.destination,
            request.number,
            request.bytes,
        );
        let result = test_run::run_to_egress(self.inject.as_fd(), &frame, request.index.0);
        let verdict = result.context("send a packet by the link")?;
        // A queue or a filter that drops it returns a positive number.
        ensure!(
            verdict >= 0,
            "send a packet by the link: {}",
            io::Error::from_raw_os_error(verdict.saturating_neg())
        );
        Ok(())
    }

    /// What the programs have recorded.
    pub fn read(&self, request: &OutsideRequest) -> anyhow::Result<OutsideTest> {
        let found = self.tests().get(&entry_index(request.word()), 0);
        let found = found.context("read an outside test")?.0;
        // Another test may have the slot by now.
        Ok(Some(found)
            .filter(|test| test.tag == request.tag())
            .unwrap_or_default())
    }

    fn tests(&self) -> MutexGuard<'_, Array<MapData, Raw<OutsideTest>>> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
