//! Inside tests: puts their packets into a tunnel's way in, and reads what the programs record.

use std::{
    net::Ipv6Addr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::SchedClassifier,
};
use sixxs_common::{
    address::Address,
    echo,
    inside_test::{InsideTest, entry_index},
};
use sixxs_core::{
    inside_test::request::{Number, frame},
    types::IfIndex,
};

use super::{INJECT, Kernel, pod::Raw, test_run};

/// The map of the tests.
const TESTS: &str = "INSIDE_TESTS";

/// Carries out tests, in any thread of this network namespace.
pub struct InsideTester {
    inject: OwnedFd,
    tests: Array<MapData, Raw<InsideTest>>,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct TestRequest {
    /// Its source.
    pub source: Ipv6Addr,
    /// The tested address.
    pub address: Ipv6Addr,
    /// Its identifier and sequence number. Two tests at a time have different sequence numbers, modulo the number of slots.
    pub number: Number,
    /// The tunnel's interface.
    pub index: IfIndex,
    /// The interface's link-layer address; `None`: it has no link layer.
    pub mac: Option<[u8; 6]>,
}

impl TestRequest {
    fn slot(&self) -> u32 {
        entry_index(self.number.word())
    }
}

impl Kernel {
    /// What carries out inside tests, with the programs and the maps of this run.
    pub fn inside_tester(&self) -> anyhow::Result<InsideTester> {
        let program = self.ebpf.program(INJECT);
        let program = program.ok_or_else(|| anyhow!("the eBPF object has no program {INJECT}"))?;
        let program: &SchedClassifier = program.try_into()?;
        let descriptor = program
            .fd()
            .context("the kernel did not load the program that puts packets in")?;
        let Some(Map::Array(tests)) = self.ebpf.map(TESTS) else {
            return Err(anyhow!("the eBPF object has no map {TESTS}"));
        };
        let tests = MapData::from_fd(tests.fd().as_fd().try_clone_to_owned()?)?;
        Ok(InsideTester {
            inject: descriptor.as_fd().try_clone_to_owned()?,
            tests: Map::Array(tests).try_into()?,
        })
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
        let [local, remote] =
            [request.address, request.source].map(|one| Address::from_octets(one.octets()));
        let tag = echo::tag(local, remote, request.number.word());
        let limit_ns = u64::try_from(limit.as_nanos())?;
        let test = InsideTest::new(tag, now_ns.saturating_add(limit_ns));
        self.write(request, test)?;
        let frame = frame(request.source, request.address, request.number, request.mac);
        let result = test_run::run_with_word(self.inject.as_fd(), &frame, request.index.0);
        let verdict = result.context("put a packet into the tunnel's way in")?;
        ensure!(
            verdict == 0,
            "the kernel does not take a packet at the tunnel's way in ({verdict})"
        );
        Ok(())
    }

    /// What the programs have recorded.
    pub fn read(&self, request: &TestRequest) -> anyhow::Result<InsideTest> {
        let found = self.tests.get(&request.slot(), 0);
        Ok(found.context("read an inside test")?.0)
    }

    /// Ends a test: the programs expect none of its packets any more.
    pub fn end(&mut self, request: &TestRequest) -> anyhow::Result<()> {
        self.write(request, InsideTest::default())
    }

    fn write(&mut self, request: &TestRequest, test: InsideTest) -> anyhow::Result<()> {
        self.tests
            .set(request.slot(), Raw(test), 0)
            .context("write an inside test")
    }
}
