//! The state as metrics.

use std::collections::BTreeMap;

use sixxs_common::{echo::Times, stat::Stat};
use sixxs_core::{broker::connects::Standing, proof::Counted};

use super::{report, state::State};
use crate::metrics::{Page, TunnelPage};

pub(super) fn metrics(
    state: &State,
    standings: anyhow::Result<BTreeMap<String, Standing>>,
) -> anyhow::Result<String> {
    let status = report::status(state, standings)?;
    let mut lost_events = 0;
    let mut tunnels = Vec::new();
    for tunnel in &state.config.tunnels {
        let counters = report::read(state, &tunnel.name)?;
        lost_events += counters[Stat::EventsLost.index()];
        tunnels.push(TunnelPage {
            counted: Counted::of(&counters),
            times: match state.kernel.slot(&tunnel.name) {
                Some(slot) => state.kernel.times(slot)?,
                None => Times::NONE,
            },
        });
    }
    let page = Page {
        status,
        tunnels,
        lost_events,
        repairs: state.repairs.clone(),
        hooks_dropped: state.alerts.hooks.dropped(),
        unix_seconds: jiff::Timestamp::now().as_duration().as_secs_f64(),
    };
    Ok(page.write()?)
}
