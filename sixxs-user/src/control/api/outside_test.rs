//! Outside tests: packets from one link to another, over the internet.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// What to test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OutsideRequest {
    /// The two links, tunnels or uplinks; empty: each link and the next one.
    pub links: Vec<String>,
}

/// The results.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OutsideTests {
    /// One per direction.
    pub tests: Vec<OutsideTest>,
    /// The links that cannot be tested, if the request names none.
    pub left_out: Vec<LeftOut>,
}

/// A link that is not tested.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub link: String,
    /// Why it is not.
    pub reason: String,
}

/// The result of one direction.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OutsideTest {
    /// The link that sends.
    pub from: String,
    /// The link that receives.
    pub to: String,
    /// The address of the former.
    pub source: Option<Ipv6Addr>,
    /// The address of the latter.
    pub destination: Option<Ipv6Addr>,
    /// Whether enough packets arrived, also of 1280 bytes.
    pub pass: bool,
    /// Number of packets; 0: the test was not possible.
    pub sent: u32,
    /// Number of packets that arrived.
    pub arrived: u32,
    /// The percentage of lost packets; `null`: none was sent.
    pub loss_percent: Option<f64>,
    /// The shortest time in one direction; `null`: none arrived.
    pub least_milliseconds: Option<f64>,
    /// The median of these times.
    pub median_milliseconds: Option<f64>,
    /// The longest.
    pub most_milliseconds: Option<f64>,
    /// The largest packet that arrived, at least 1280 bytes; `null`: none did, or this was not tested.
    pub path_mtu: Option<u32>,
    /// The smallest packet that did not arrive; `null`: the largest one that was tried did.
    pub too_big: Option<u32>,
    /// The largest packet that was to be tried: the MTU of the link that sends, up to 3500.
    pub mtu: Option<u32>,
    /// The router that sent Packet Too Big.
    pub router: Option<Ipv6Addr>,
    /// The MTU that it named.
    pub router_mtu: Option<u32>,
    /// Why it fails, as a word; `null` where it passes.
    pub cause: Option<String>,
    /// The sentence for users.
    pub sentence: String,
    /// What to do; `null`: nothing.
    pub hint: Option<String>,
}
