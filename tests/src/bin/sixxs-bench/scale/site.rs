//! A host with very many tunnel addresses. It has one tunnel, a TUN device that drops packets once its queue
//! is full, and an uplink without a router.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::lab::dirs::{LabDir, Paths};
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::tun;
use sixxs_tests::program::{Hook, Program};
use sixxs_tests::shell;

const TUNNEL: &str = "sixxs0";
const UPLINK: &str = "net0";
/// Destination of all packets: only a default route matches it.
const SINK: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9), 9, 0, 0);
/// 2001:db8:a::/48, the prefix of all addresses.
const BASE: u128 = 0x2001_0db8_000a << 80;
/// Number of source addresses, spread evenly over all addresses.
const SENDERS: u32 = 16;

pub(crate) struct Site {
    pub(crate) addresses: u32,
    pub(crate) host: Namespace,
    senders: Vec<UdpSocket>,
    _tunnel: File,
    // The last field: its drop deletes the namespace.
    directory: LabDir,
}

impl Site {
    /// Makes the host, with this number of tunnel addresses.
    pub(crate) fn new(addresses: u32) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("bench-{}-{count}", std::process::id());
        let names = [format!("sixxs-{id}")];
        let directory = LabDir::create(&id, &names)?;
        let host = Namespace::create(&names)?.pop().context("a namespace")?;
        host.sysctl(&[
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        let tunnel = tun::create(&host, TUNNEL)?;
        let chosen = (0..SENDERS.min(addresses)).map(|number| {
            let number =
                u64::from(number) * u64::from(addresses) / u64::from(SENDERS.min(addresses));
            address(u32::try_from(number).unwrap_or(u32::MAX))
        });
        let chosen: Vec<_> = chosen.collect();
        let mut lines = format!(
            "link set lo up\n\
             link add {UPLINK} type veth peer name far0\n\
             link set far0 up\nlink set {UPLINK} up\n\
             address add 2001:db8:1::1/64 dev {UPLINK} nodad\n\
             route add default via 2001:db8:1::fe dev {UPLINK}\n\
             link set {TUNNEL} up\n"
        );
        for address in &chosen {
            writeln!(lines, "address add {address}/128 dev {TUNNEL} nodad")?;
        }
        host.ip(&lines)?;
        let open = |address: &Ipv6Addr| {
            host.run(|| {
                UdpSocket::bind((*address, 0)).with_context(|| format!("bind to {address}"))
            })
        };
        let senders = chosen.iter().map(open).collect::<Result<_>>()?;
        let site = Self {
            addresses,
            senders,
            host,
            _tunnel: tunnel,
            directory,
        };
        site.write_config()?;
        Ok(site)
    }

    pub(crate) fn paths(&self) -> &Paths {
        self.directory.paths()
    }

    pub(crate) fn program(&self) -> Result<Program> {
        Program::at(&self.host, self.paths(), Hook::Auto)
    }

    fn write_config(&self) -> Result<()> {
        let addresses: Vec<_> = (0..self.addresses)
            .map(|number| format!("\"{}\"", address(number)))
            .collect();
        let text = format!(
            "uplinks = [\"{UPLINK}\"]\nrule_mode = \"subtrees\"\n\
             [[tunnel]]\nname = \"{TUNNEL}\"\nkind = \"interface\"\nmtu = 1280\n\
             address = [{}]\n",
            addresses.join(", ")
        );
        let path = self.paths().config();
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Adds a rule for each address, as an administrator would without the program.
    pub(crate) fn add_plain_rules(&self) -> Result<()> {
        let mut lines = format!("route add default dev {TUNNEL} table 200\n");
        for number in 0..self.addresses {
            let address = address(number);
            writeln!(lines, "rule add from {address} lookup 200 priority 16383")?;
        }
        self.ip_batch(&lines).map(drop)
    }

    /// Sends `count` packets, from each of the chosen addresses in turn.
    pub(crate) fn send(&self, count: u32) -> Result<()> {
        let payload = [0x5a; 64];
        for sender in self.senders.iter().cycle().take(count as usize) {
            sender.send_to(&payload, SINK).context("send")?;
        }
        Ok(())
    }

    /// Whether a packet from the first address is routed to the tunnel.
    pub(crate) fn leads_to_the_tunnel(&self) -> Result<bool> {
        let route = format!("ip -6 route get {} from {}", SINK.ip(), address(0));
        Ok(self.host.sh(&route)?.contains(TUNNEL))
    }

    /// The commands of `sixxs plan`, for `ip -batch`.
    pub(crate) fn batch(&self) -> Result<String> {
        let plan = self.program()?.run(&["plan"])?.stdout;
        let commands = plan.lines().filter_map(|line| line.strip_prefix("ip -6 "));
        Ok(commands.map(|line| format!("{line}\n")).collect())
    }

    /// Runs these lines by `ip -6 -batch`, and returns the time that it takes.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<Duration> {
        let path = self.paths().base().join("batch");
        std::fs::write(&path, lines).with_context(|| format!("write {}", path.display()))?;
        let mut ip = self.host.command("ip");
        ip.args(["-6", "-batch"]).arg(path);
        let started = Instant::now();
        shell::capture(&mut ip)?;
        Ok(started.elapsed())
    }
}

/// The address with this number, scattered over a /48. The number is multiplied by an odd number modulo 2^32,
/// so all results differ.
fn address(number: u32) -> Ipv6Addr {
    let scattered = u128::from(number.wrapping_mul(0x9e37_79b1));
    Ipv6Addr::from_bits(BASE | (scattered & 0xffff) << 64 | scattered >> 16 << 32 | 2)
}
