//! NAT at the provider, before the host: all IPv4 packets of the host leave with another address, and
//! unsolicited packets are dropped. It can forget its mappings, like a home router that restarts.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use std::os::fd::AsRawFd as _;

use crate::lab::netns::Namespace;
use crate::lab::nft;

/// Unused addresses of the uplink's network: the first one, and their number.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const ADDRESSES: u8 = 100;
/// Each new mapping uses its own block of ports.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 1000;
const PORT_BLOCKS: u16 = 40;

/// The NAT at the provider.
#[derive(Debug)]
pub struct Nat {
    isp: Namespace,
    mapping: Mutex<Mapping>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mapping {
    address: u8,
    port_block: u16,
}

impl Mapping {
    fn address(self) -> Ipv4Addr {
        let [a, b, c, d] = FIRST_ADDRESS.octets();
        Ipv4Addr::new(a, b, c, d + self.address)
    }

    fn rules(self) -> String {
        let address = self.address();
        let first = FIRST_PORT + self.port_block * PORTS;
        let last = first + PORTS - 1;
        format!(
            "table ip nat {{
                counter unsolicited {{ }}
                chain translate {{ type nat hook postrouting priority 100; }}
                chain ask_first {{ type filter hook forward priority 0; }}
            }}
            flush chain ip nat translate
            flush chain ip nat ask_first
            table ip nat {{
                chain translate {{
                    oifname \"core\" meta l4proto {{ tcp, udp }} snat to {address}:{first}-{last}
                    oifname \"core\" snat to {address}
                }}
                chain ask_first {{
                    iifname \"core\" ct state {{ new, invalid }} counter name unsolicited drop
                }}
            }}"
        )
    }
}

impl Nat {
    /// Sets it up in the provider's namespace.
    pub(crate) fn new(isp: &Namespace) -> Result<Self> {
        let nat = Self {
            isp: isp.clone(),
            mapping: Mutex::default(),
        };
        nat.remap(|_| {})?;
        Ok(nat)
    }

    /// The source address of the host's translated packets.
    pub fn address(&self) -> Ipv4Addr {
        self.mapping().address()
    }

    /// Unsolicited packets to the host.
    pub fn unsolicited(&self) -> Result<u64> {
        nft::read(&self.isp)?.get("unsolicited")
    }

    /// Forgets every mapping; new ones use other ports of the same address.
    pub fn rebind_ports(&self) -> Result<()> {
        self.remap(|mapping| mapping.port_block = (mapping.port_block + 1) % PORT_BLOCKS)
    }

    /// Forgets every mapping; new ones use another address.
    pub fn rebind_address(&self) -> Result<()> {
        self.remap(|mapping| mapping.address = (mapping.address + 1) % ADDRESSES)
    }

    fn mapping(&self) -> MutexGuard<'_, Mapping> {
        self.mapping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remap(&self, change: impl FnOnce(&mut Mapping)) -> Result<()> {
        let mut mapping = self.mapping();
        change(&mut mapping);
        nft::load(&self.isp, &mapping.rules())?;
        self.isp.run(forget_connections)
    }
}

/// Deletes all IPv4 entries of the connection table in this thread's namespace, by a ctnetlink request that
/// names no entry.
fn forget_connections() -> Result<()> {
    /// From linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h: the subsystem, and its deletion message.
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    /// A netlink header of 16 bytes and an nfnetlink header of 4.
    const REQUEST_BYTES: u32 = 20;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
    let mut request = Vec::new();
    request.extend(REQUEST_BYTES.to_ne_bytes());
    request.extend((NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([u8::try_from(libc::AF_INET)?, 0, 0, 0]);
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .context("open a netlink socket")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(5, 0)).context("set a time limit")?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty()).context("ask to forget connections")?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())
        .context("wait for connections to be forgotten")?;
    // An nlmsghdr, then the error of an nlmsgerr; 0 is the acknowledgement.
    let error = answer.get(16..20).filter(|_| length >= 20);
    let Some(&[a, b, c, d]) = error else {
        bail!("netlink answered {length} bytes");
    };
    let error = i32::from_ne_bytes([a, b, c, d]);
    ensure!(
        error == 0,
        "forget connections: {}",
        std::io::Error::from_raw_os_error(-error)
    );
    Ok(())
}
