//! Inside tests: puts their packets into a tunnel's ingress, and reads what the programs record.

use std::{
    net::Ipv6Addr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use sixxs_common::{
    address::Address,
    echo,
    inside_test::{InsideTest, Kind, entry_index},
};
use sixxs_core::{
    inside_test::request::{Message, frame},
    types::IfIndex,
};

use tracing::debug;

use super::{Kernel, pod::Raw, test_run};

/// The program that user space runs to put a packet in.
pub(super) const INJECT: &str = "sixxs_inject";

/// The map of the tests.
const TESTS: &str = "INSIDE_TESTS";

/// The switch of the programs: 1 while there are tests.
const SWITCH: &str = ".bss";

/// The number of testers at work, which share the switch.
pub type Testers = Arc<Mutex<u32>>;

/// Carries out tests, in any thread of this network namespace.
pub struct InsideTester {
    inject: OwnedFd,
    tests: Array<MapData, Raw<InsideTest>>,
    _switch: Switch,
}

/// Keeps the programs' part switched on.
pub(super) struct Switch {
    map: Array<MapData, u32>,
    testers: Testers,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct TestRequest {
    /// Its source.
    pub source: Ipv6Addr,
    /// The tested address.
    pub address: Ipv6Addr,
    /// The packet. Two tests at a time have different sequence numbers or remote ports, modulo the number of slots.
    pub message: Message,
    /// The tunnel's interface.
    pub index: IfIndex,
    /// The interface's link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
    /// Whether a reply that leaves by the right way is sent.
    pub lets_go: bool,
}

impl TestRequest {
    const fn expected(&self) -> Expected {
        Expected {
            local: self.address,
            remote: self.source,
            word: self.message.word(),
        }
    }
}

/// The packets that belong to a test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The address of this host.
    pub(super) local: Ipv6Addr,
    /// The other address.
    pub(super) remote: Ipv6Addr,
    /// [`Message::word`].
    pub(super) word: u32,
}

impl Expected {
    const fn slot(&self) -> u32 {
        entry_index(self.word)
    }

    pub(super) fn tag(&self) -> u64 {
        let [local, remote] =
            [self.local, self.remote].map(|one| Address::from_octets(one.octets()));
        echo::tag(local, remote, self.word)
    }
}

impl Kernel {
    /// What carries out inside tests, with the programs and the maps of this run. All testers share `testers`.
    pub fn inside_tester(&self, testers: &Testers) -> anyhow::Result<InsideTester> {
        Ok(InsideTester {
            inject: self.descriptor(INJECT)?,
            tests: array(&self.ebpf, TESTS)?.try_into()?,
            _switch: Switch::on(&self.ebpf, testers)?,
        })
    }

    /// The descriptor of a program of the object, which only tests need.
    pub(super) fn descriptor(&self, name: &str) -> anyhow::Result<OwnedFd> {
        let program = self.ebpf.program(name);
        let program = program.ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
        let descriptor = program.fd();
        let descriptor = descriptor.with_context(|| format!("the kernel did not load {name}"))?;
        Ok(descriptor.as_fd().try_clone_to_owned()?)
    }
}

/// A map of the object.
pub(super) fn array(ebpf: &Ebpf, name: &str) -> anyhow::Result<Map> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        return Err(anyhow!("the eBPF object has no map {name}"));
    };
    let map = MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?;
    Ok(Map::Array(map))
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.count(-1) {
            debug!("{error:#}");
        }
    }
}

impl Switch {
    /// Switches the programs' part on, until the last one of `testers` is dropped.
    pub(super) fn on(ebpf: &Ebpf, testers: &Testers) -> anyhow::Result<Self> {
        let mut switch = Self {
            map: array(ebpf, SWITCH)?.try_into()?,
            testers: Arc::clone(testers),
        };
        switch.count(1)?;
        Ok(switch)
    }

    /// Counts a tester, and switches the programs' part on with the first one, and off with the last one.
    fn count(&mut self, change: i32) -> anyhow::Result<()> {
        let mut testers = self.testers.lock().unwrap_or_else(PoisonError::into_inner);
        *testers = testers.saturating_add_signed(change);
        let is_on = u32::from(*testers > 0);
        let written = self.map.set(0, is_on, 0);
        written.context("switch the tests of the programs on or off")
    }
}

impl InsideTester {
    /// Begins a test: the programs expect its packets for this time. Then puts the request in. Most often the kernel has
    /// handled it, and the reply too, when this returns.
    pub fn begin(
        &mut self,
        request: &TestRequest,
        limit: Duration,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let kind = match request.lets_go {
            true => Kind::LetGo,
            false => Kind::Reply,
        };
        self.expect(&request.expected(), kind, limit, now_ns)?;
        self.put_in(request, request.message)
    }

    /// Begins a test of these packets.
    pub(super) fn expect(
        &mut self,
        expected: &Expected,
        kind: Kind,
        limit: Duration,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let limit_ns = u64::try_from(limit.as_nanos())?;
        let until_ns = now_ns.saturating_add(limit_ns);
        let test = InsideTest::new(expected.tag(), expected.word, until_ns, kind);
        self.write(expected, test)
    }

    /// Puts a packet with the ends of a request in.
    fn put_in(&self, request: &TestRequest, message: Message) -> anyhow::Result<()> {
        let frame = frame(request.source, request.address, message, request.mac);
        let result = test_run::run_with_word(self.inject.as_fd(), &frame, request.index.0);
        let verdict = result.context("put a packet into the tunnel's ingress")?;
        ensure!(
            verdict == 0,
            "the kernel does not take a packet at the tunnel's ingress ({verdict})"
        );
        Ok(())
    }

    /// What the programs have recorded.
    pub fn read(&self, request: &TestRequest) -> anyhow::Result<InsideTest> {
        self.recorded(&request.expected())
    }

    /// What the programs have recorded of these packets.
    pub(super) fn recorded(&self, expected: &Expected) -> anyhow::Result<InsideTest> {
        let found = self.tests.get(&expected.slot(), 0);
        let found = found.context("read an inside test")?.0;
        // Another test may have the slot by now.
        Ok(Some(found)
            .filter(|test| test.tag == expected.tag())
            .unwrap_or_default())
    }

    /// Closes the connection that the request may have opened. Returns whether a packet was put in for it.
    pub fn close(&self, request: &TestRequest) -> anyhow::Result<bool> {
        let Message::Syn(ports) = request.message else {
            return Ok(false);
        };
        self.put_in(request, Message::Reset(ports))?;
        Ok(true)
    }

    /// Ends a test: the programs expect none of its packets any more.
    pub fn end(&mut self, request: &TestRequest) -> anyhow::Result<()> {
        self.forget(&request.expected())
    }

    /// Ends the test of these packets.
    pub(super) fn forget(&mut self, expected: &Expected) -> anyhow::Result<()> {
        self.write(expected, InsideTest::default())
    }

    fn write(&mut self, expected: &Expected, test: InsideTest) -> anyhow::Result<()> {
        self.tests
            .set(expected.slot(), Raw(test), 0)
            .context("write an inside test")
    }
}
