//! Live tests: what the kernel and the programs do with a packet that this host sends (`sixxs explain --live`).
//!
//! `sixxs_hold` is attached to the root of all control groups during a test, so that the packet reaches no wire.

use std::{
    fmt,
    fs::File,
    net::Ipv6Addr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use sixxs_common::inside_test::{InsideTest, Kind};
use sixxs_core::inside_test::request::{Message, Number};
use tracing::debug;

use super::{
    InsideTester, Kernel, Testers,
    inside_test::Expected,
    syscall::{create_link, descriptor_number},
};

/// The program that keeps the packet from the wire.
pub(super) const HOLD: &str = "sixxs_hold";

/// Where the root of all control groups may be mounted (cgroup v2).
const CONTROL_GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The attach type `BPF_CGROUP_INET_EGRESS`.
const ATTACH_TYPE: u32 = 1;

/// A test of one packet. It ends when it is dropped.
pub struct LiveTest {
    tester: InsideTester,
    expected: Expected,
    /// Attaches `sixxs_hold`.
    _hold: OwnedFd,
}

impl Kernel {
    /// Begins a test of an echo request from an address of this host. The programs expect it for this time.
    pub fn live_test(
        &self,
        testers: &Testers,
        [source, destination]: [Ipv6Addr; 2],
        number: Number,
        limit: Duration,
        now_ns: u64,
    ) -> anyhow::Result<LiveTest> {
        let mut tester = self.inside_tester(testers)?;
        let expected = Expected {
            local: source,
            remote: destination,
            word: Message::Echo(number).word(),
        };
        tester.expect(&expected, Kind::Live, limit, now_ns)?;
        Ok(LiveTest {
            tester,
            expected,
            _hold: self.hold()?,
        })
    }

    /// Attaches the program that keeps the packets of live tests from the wire.
    fn hold(&self) -> anyhow::Result<OwnedFd> {
        let program = self.descriptor(HOLD)?;
        let root = control_groups()?;
        let target = descriptor_number(root.as_fd())?;
        create_link(program.as_fd(), target, ATTACH_TYPE, 0)
            .with_context(|| format!("attach {HOLD}, which keeps the packet from the wire"))
    }
}

impl LiveTest {
    /// What the programs have recorded.
    pub fn read(&self) -> anyhow::Result<InsideTest> {
        self.tester.recorded(&self.expected)
    }
}

impl fmt::Debug for LiveTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LiveTest");
        shown
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl Drop for LiveTest {
    fn drop(&mut self) {
        if let Err(error) = self.tester.forget(&self.expected) {
            debug!("{error:#}");
        }
    }
}

/// The root of all control groups.
fn control_groups() -> anyhow::Result<File> {
    for path in CONTROL_GROUPS {
        if let Ok(root) = File::open(path)
            && let Ok(found) = fstatfs(&root)
            && found.filesystem_type() == CGROUP2_SUPER_MAGIC
        {
            return Ok(root);
        }
    }
    bail!(
        "cgroup v2 is mounted at none of {}: nothing would keep the packet from the wire",
        CONTROL_GROUPS.join(", ")
    )
}
