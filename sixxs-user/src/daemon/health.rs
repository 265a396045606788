//! Gathers the facts for the judgement of a tunnel's health (`sixxs_core::health`).

use std::{collections::BTreeSet, net::Ipv6Addr};

use sixxs_common::stat::Counters;
use sixxs_core::{
    config::{OnLeak, Tunnel},
    doctor::ways::Shadow,
    health::{Facts, Health, ShadowEffect, ShadowFate},
    proof::Counted,
    tunnel,
    types::IfName,
};

use super::{answers::Waiting, state::State};

impl State {
    /// The health of a tunnel, as of the last scan and of these counters.
    pub(super) fn health(
        &self,
        tunnel: &Tunnel,
        state: &tunnel::State,
        (is_routed, has_program): (bool, bool),
        (counters, waiting): (&Counters, &Waiting),
    ) -> Health {
        let addresses: Vec<_> = tunnel.addresses.iter().map(|a| a.address).collect();
        let slot = self.kernel.slot(&tunnel.name);
        let waiting = slot.map_or(0, |slot| waiting.of(slot));
        let vigil = self.vigils.get(&tunnel.name);
        let in_a_row =
            vigil.map(|vigil| vigil.unanswered_in_a_row(&Counted::of(counters), waiting));
        let silence = vigil.and_then(|vigil| vigil.manner().told(tunnel.name.as_str()));
        let mut shadows = self.shadows.iter();
        let shadow = shadows.find(|shadow| shadow.tunnel == tunnel.name.as_str());
        let leaking = slot.and_then(|slot| self.leaking.get(&slot));
        Health::judge(&Facts {
            state,
            link: self.observed.links.by_name(&tunnel.name),
            elsewhere: &self.elsewhere(&tunnel.name, &addresses),
            addresses: &addresses,
            is_routed,
            has_program,
            shadow: shadow.map(|shadow| self.effect(shadow)).as_ref(),
            leaks: leaking.and_then(|leaking| leaking.fate(self.started.elapsed())),
            unanswered_in_a_row: in_a_row.unwrap_or(0),
            silence: silence.as_deref(),
        })
    }

    /// Addresses of a tunnel that other interfaces have.
    fn elsewhere(&self, tunnel: &IfName, addresses: &[Ipv6Addr]) -> Vec<(Ipv6Addr, IfName)> {
        let wanted: BTreeSet<_> = addresses.iter().collect();
        let others = self.observed.links.iter();
        others
            .filter(|link| link.name != *tunnel)
            .flat_map(|link| {
                let has = link.addresses.iter().filter(|a| wanted.contains(a));
                has.map(|address| (*address, link.name.clone()))
            })
            .collect()
    }

    fn effect(&self, shadow: &Shadow) -> ShadowEffect {
        let name = shadow
            .leaves_by
            .and_then(|index| self.observed.links.by_index(index))
            .map(|link| &link.name);
        let program = name.and_then(|name| self.enforcement.interfaces.get(name));
        let has_program = program.is_some_and(|program| self.kernel.hook(program).is_some());
        let fate = match (shadow.leaves_by, self.config.on_leak) {
            (None, _) => ShadowFate::Refused,
            (Some(_), OnLeak::Redirect) if has_program => ShadowFate::Redirected,
            (Some(_), _) => ShadowFate::Lost,
        };
        ShadowEffect {
            priorities: shadow.rules.iter().map(|rule| rule.priority.0).collect(),
            fate,
        }
    }
}
