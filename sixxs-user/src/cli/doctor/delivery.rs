//! Facts about silent tunnels.

use std::time::Duration;

use sixxs_core::doctor::delivery::{Delivery, KernelCounters, Undelivered, counters, counters6};

use super::read;
use crate::control::api::{Silence, Status};

/// How long the kernel's counters are watched.
const WATCHED: Duration = Duration::from_secs(1);

/// The tunnels that the daemon reports as silent. If outer packets of one are not delivered, the kernel's counters are
/// watched.
pub(super) async fn delivery(status: Option<&Status>) -> Delivery {
    let mut delivery = Delivery::default();
    for tunnel in status.map(|status| &status.tunnels).into_iter().flatten() {
        let Some(outer) = &tunnel.outer else {
            continue;
        };
        let sentence = outer.sentence.clone().unwrap_or_default();
        match outer.silence {
            Some(Silence::NothingArrives) => delivery.silent.push((tunnel.name.clone(), sentence)),
            Some(Silence::NotDelivered) => delivery.undelivered.push(Undelivered {
                tunnel: tunnel.name.clone(),
                sentence,
                has_ports: outer.endpoints.iter().any(|endpoint| has_port(endpoint)),
            }),
            Some(Silence::Unknown) | None => {}
        }
    }
    if !delivery.undelivered.is_empty() {
        let before = kernel_counters();
        tokio::time::sleep(WATCHED).await;
        delivery.counters = (before, kernel_counters());
    }
    delivery
}

fn has_port(endpoint: &str) -> bool {
    endpoint.parse::<std::net::SocketAddr>().is_ok()
}

/// The kernel's counters of this network namespace.
fn kernel_counters() -> KernelCounters {
    let mut all = counters(&read("/proc/net/snmp"));
    all.extend(counters(&read("/proc/net/netstat")));
    all.extend(counters6(&read("/proc/net/snmp6")));
    all
}
