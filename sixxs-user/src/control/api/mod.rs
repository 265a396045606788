//! The daemon's JSON, which scripts rely on.
//!
//! Keys may be added, but not renamed. An unknown value is `null`.

mod alert;
mod inside_test;
mod live_test;
mod outside_test;
mod reload;
mod status;
mod value;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sixxs_core::routing;

pub use self::{
    alert::{About, Alert, Leak},
    inside_test::{FilterRule, InsideRequest, InsideTest, InsideTests},
    live_test::{LiveEvent, LiveRequest, LiveWay},
    outside_test::{LeftOut, OutsideRequest, OutsideTest, OutsideTests},
    reload::{
        CheckReload, ConfigText, ConnectsNeeded, Preview, Reload, TunnelChanges, UplinkChanges,
    },
    status::{
        Broker, Echo, EndpointUpdate, Group, GroupLink, InOut, Leaks, Out, Outer, Probes, Proof,
        Status, Tunnel, Uplink, WireGuard, WireGuardPeer, Xdp,
    },
    value::{
        Carrier, Health, Hook, Kind, LinkState, Program, Routing, Silence, State, Treatment,
        UpdateState, XdpMode,
    },
};

/// The media type of metrics.
pub(crate) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `sixxs counters --json`: by interface, then by the counter's name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Every interface that has or had a map slot.
    pub interfaces: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The missing objects, as commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Shell commands.
    pub commands: Vec<String>,
    /// Problems, as messages.
    pub problems: Vec<String>,
    /// The configuration file; `null` if it is the requested one.
    #[serde(default)]
    pub config: Option<String>,
}

impl From<&routing::Plan> for Plan {
    fn from(plan: &routing::Plan) -> Self {
        Self {
            config: None,
            commands: plan.steps.iter().map(ToString::to_string).collect(),
            problems: plan.problems.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The tunnels to act on; empty for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// Their names.
    pub tunnels: Vec<String>,
    /// When starting: whether to query brokers again although their parameters are known.
    #[serde(default)]
    pub refresh: bool,
}

/// The tunnel of an aiccu.conf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountFile {
    /// The path of the file.
    pub file: String,
    /// A file with the certificate authority for the TIC server; `null`: the system's.
    #[serde(default)]
    pub tls_ca: Option<String>,
    /// Whether to verify the TIC server's certificate.
    #[serde(default = "yes")]
    pub tls_verify: bool,
    /// Whether to query the broker again although its parameters are known.
    #[serde(default)]
    pub refresh: bool,
}

const fn yes() -> bool {
    true
}

/// The displacement of the daemon's clock from the machine's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Displacement {
    /// Displacement of the wall clock, in seconds.
    pub wall_seconds: i64,
    /// Seconds to add to the time since boot; a value below the present one changes nothing.
    #[serde(default)]
    pub slept_seconds: u64,
}

/// The body of an error response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The error, and what to do.
    pub error: String,
}
