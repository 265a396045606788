//! What the history records about tunnels, from a snapshot. Pure.

use std::collections::BTreeMap;

use sixxs_core::{
    echo_health::EchoCounts,
    health::Health,
    history::{Cause, Observation, State},
    outer_traffic::Silence,
    types::IfName,
};

use super::{leak_reports, snapshot::Snapshot};

/// The observation of each tunnel whose health was judged.
pub(super) fn observations(
    snapshot: &Snapshot<'_>,
    judged: &BTreeMap<IfName, Health>,
) -> BTreeMap<IfName, Observation> {
    let observed = judged.iter().filter_map(|(name, health)| {
        let known = snapshot.tunnels.get(name)?;
        let counters = snapshot.readings.counters(name);
        let has_interface = snapshot.links.by_name(name).is_some();
        let is_silent = known
            .silent
            .as_ref()
            .is_some_and(|silent| matches!(silent.silence, Silence::NothingArrives { .. }));
        let reason = health.reasons.first();
        let observation = Observation {
            state: State::from(&known.view.state),
            level: health.level,
            cause: reason.map(|reason| Cause::of(reason, has_interface, is_silent)),
            echo: EchoCounts::of(counters),
            waiting: snapshot.readings.pending(name),
            leaks: leak_reports::total(counters),
        };
        Some((name.clone(), observation))
    });
    observed.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sixxs_common::stat::Stat;
    use sixxs_core::{
        health::{Level, Reason},
        link_quality::Quality,
        outer_traffic::SilentTunnel,
        routing::Plan,
        tunnel,
    };

    use super::*;
    use crate::daemon::{
        fixture::{config, host, snapshot},
        health::judge_all,
        readings::Readings,
    };

    #[test]
    fn facts_come_from_the_snapshot() {
        let config = config(&["sixxs0"]);
        let (with, without) = (host(&["sixxs0"]), host(&[]));
        let plan = Plan::default();
        let observe = |now: &Snapshot<'_>| {
            let name: IfName = "sixxs0".parse().unwrap();
            observations(now, &judge_all(now))[&name]
        };
        let mut now = snapshot(&config, &without, &plan);
        let known = now.tunnels.values_mut().next().unwrap();
        known.view.state = tunnel::State::Waiting(String::new());
        let counted = [
            (Stat::EchoWatched, 8),
            (Stat::EchoAnswered, 6),
            (Stat::LeakRedirected, 5),
            (Stat::LeakDropped, 2),
        ];
        now.readings = Readings::fake(1, &[("sixxs0", &counted)]);
        let found = observe(&now);
        assert_eq!(found.state, State::Waiting);
        assert_eq!(found.level, Level::Failing);
        assert_eq!(found.cause, Some(Cause::InterfaceMissing));
        assert_eq!((found.echo.requests, found.echo.answered), (8, 6));
        assert_eq!((found.waiting, found.leaks), (0, 7));

        // The probes of a link whose far end is silent are lost.
        let mut now = snapshot(&config, &with, &plan);
        let known = now.tunnels.values_mut().next().unwrap();
        let window = Duration::from_secs(30);
        known.quality = Quality::Lossy {
            lost: 20,
            sent: 20,
            window,
        };
        known.silent = Some(SilentTunnel {
            silence: Silence::NothingArrives {
                sent: 20,
                within: window,
            },
            endpoint: "198.51.100.1".to_owned(),
            last_arrived: None,
        });
        let name = &config.tunnels[0].name;
        let mut health = judge_all(&now);
        let reasons = &mut health.get_mut(name).unwrap().reasons;
        reasons.retain(|reason| matches!(reason, Reason::Probed(_)));
        let found = observations(&now, &health)[name];
        assert_eq!(found.cause, Some(Cause::BrokerSilent));
        assert_eq!(found.state, State::Up);
    }
}
