//! Router advertisements of a provider, by radvd.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Namespace;

/// A prefix in the advertisements.
#[derive(Clone, Copy, Debug)]
pub struct Advertised {
    /// The prefix.
    pub prefix: &'static str,
    /// Time for which new connections use its addresses, in seconds.
    pub preferred: u32,
}

/// A running radvd.
#[derive(Debug)]
pub struct Advertiser {
    child: Child,
}

impl Advertiser {
    /// Advertises prefixes, and a default router for `lifetime` seconds, by an interface. `directory` is for its files.
    pub fn start(
        at: &Namespace,
        interface: &str,
        directory: &std::path::Path,
        lifetime: u32,
        prefixes: &[Advertised],
    ) -> Result<Self> {
        let mut text = format!(
            "interface {interface} {{\n AdvSendAdvert on;\n MinRtrAdvInterval 3;\n MaxRtrAdvInterval 4;\n \
             AdvDefaultLifetime {lifetime};\n"
        );
        for Advertised { prefix, preferred } in prefixes {
            text += &format!(
                " prefix {prefix} {{ AdvOnLink on; AdvAutonomous on; AdvValidLifetime 600; \
                 AdvPreferredLifetime {preferred}; }};\n"
            );
        }
        text += "};\n";
        let file = |suffix: &str| directory.join(format!("{}-radvd.{suffix}", at.name()));
        std::fs::write(file("conf"), text).context("write radvd's configuration")?;
        let mut command: Command = at.command("radvd");
        command
            .args(["--nodaemon", "--logmethod", "stderr", "--config"])
            .arg(file("conf"))
            .arg("--pidfile")
            .arg(file("pid"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            child: command.spawn().context("start radvd")?,
        })
    }
}

/// Number of prefixes in one advertisement of a flood.
const FLOOD_PREFIXES: usize = 40;

/// Sends advertisements with `count` different prefixes `2001:db8:FIRST:n::/64` by an interface, a thousand prefixes a
/// second. The router stays a default router for 600 s.
pub fn flood(at: &Namespace, interface: &str, first: u16, count: u16) -> Result<()> {
    let socket = at.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        let index = nix::net::if_::if_nametoindex(interface)?;
        socket.set_multicast_if_v6(index)?;
        // Others are ignored (RFC 4861 §6.1.2).
        socket.set_multicast_hops_v6(255)?;
        Ok(socket)
    })?;
    let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, 0);
    let numbers: Vec<_> = (0..count).collect();
    for some in numbers.chunks(FLOOD_PREFIXES) {
        // RFC 4861 §4.2; the kernel fills in the checksum.
        let mut packet = vec![134, 0, 0, 0, 64, 0, 2, 88, 0, 0, 0, 0, 0, 0, 0, 0];
        for number in some {
            // RFC 4861 §4.6.2: on link, autonomous, for 600 s.
            packet.extend([3, 4, 64, 0xc0]);
            packet.extend([600_u32, 600, 0].map(u32::to_be_bytes).concat());
            let prefix = Ipv6Addr::new(0x2001, 0xdb8, first, *number, 0, 0, 0, 0);
            packet.extend(prefix.octets());
        }
        socket
            .send_to(&packet, &all_nodes.into())
            .context("send an advertisement")?;
        std::thread::sleep(Duration::from_millis(some.len() as u64));
    }
    Ok(())
}

impl Drop for Advertiser {
    fn drop(&mut self) {
        // By a signal that it handles, it would announce its end; a provider that fails does not.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
