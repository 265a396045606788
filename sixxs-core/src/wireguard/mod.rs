//! WireGuard: what an interface is to have, what the kernel has, and the changes between the two.
//!
//! Pure. Knows neither the configuration of this program nor netlink.
//!
//! * [`key`] – keys
//! * [`settings`] – the desired configuration of an interface and of its peers
//! * [`quick_file`] – the file of `wg-quick`
//! * [`device`] – the observed configuration, and the changes that lead to the desired one
//! * [`endpoints`] – the addresses of peers, and when a name is looked up again
//! * [`handshakes`] – the age of the latest handshakes, and when it shows that a peer does not answer

pub mod device;
pub mod endpoints;
pub mod handshakes;
pub mod key;
pub mod quick_file;
pub mod settings;

pub use device::{Change, Device, DevicePeer, diff};
pub use key::{PublicKey, SecretKey};
pub use settings::{AllowedIp, Peer, PeerEndpoint, Settings};

use crate::types::Mtu;

/// The MTU without a setting, like `wg-quick`'s: 1500 bytes minus the headers of WireGuard over IPv6.
pub const DEFAULT_MTU: Mtu = Mtu(1420);
