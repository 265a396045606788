//! The metric families of groups and of probes.

use std::fmt;

use super::{Families, MetricsSnapshot};

impl MetricsSnapshot {
    pub(super) fn groups(&self, families: &mut Families<'_>) -> fmt::Result {
        let groups = || self.status.groups.iter();
        let links = groups().flat_map(|group| {
            group.links.iter().map(move |link| {
                let labels = [("group", group.name.as_str()), ("link", link.name.as_str())];
                let is_active = link.name == group.active;
                (labels, f64::from(u8::from(is_active)))
            })
        });
        families.gauges(
            "sixxs_group_link_active",
            "Whether a link carries the prefixes of its group",
            links,
        )?;
        families.counters(
            "sixxs_group_switches",
            "Times that another link took over the prefixes of a group",
            groups().map(|group| ([("group", group.name.as_str())], group.switches)),
        )
    }

    pub(super) fn probes(&self, families: &mut Families<'_>) -> fmt::Result {
        let probed = || {
            let tunnels = self.status.tunnels.iter();
            tunnels.filter_map(|tunnel| Some((tunnel.name.as_str(), tunnel.probes?)))
        };
        families.gauges(
            "sixxs_probe_loss_ratio",
            "Share of the probes of a link in the last window that got no reply",
            probed().filter_map(|(link, probes)| {
                Some(([("tunnel", link)], probes.loss_percent? / 100.0))
            }),
        )?;
        families.gauges(
            "sixxs_probe_reply_seconds",
            "Median time from probe to reply in the last window",
            probed()
                .filter_map(|(link, probes)| Some(([("tunnel", link)], probes.median_seconds?))),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        control::api::Status,
        metrics::{MetricsSnapshot, tests::page},
    };

    #[test]
    fn a_group_and_its_probes_have_metrics() {
        let tunnel = serde_json::json!({"name": "he", "kind": "interface", "state": "up",
            "addresses": [], "prefixes": [], "ifindex": 7, "table": 200, "mtu": 1480,
            "routing": "in_place", "program": "attached",
            "packets": {"in": 0, "out": 0}, "bytes": {"in": 0, "out": 0},
            "echo": {"requests_in": 0, "replies_out": 0, "requests_out": 0, "replies_in": 0,
                "last_request_in_seconds_ago": null, "last_reply_out_seconds_ago": null},
            "probes": {"sent": 20, "lost": 5, "loss_percent": 25.0, "median_seconds": 0.5},
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}, "strays": 0});
        let group = serde_json::json!({"name": "lan", "active": "wg0", "active_seconds": 1.0, "switches": 3,
            "links": [{"name": "he", "state": "failing"}, {"name": "wg0", "state": "good"}],
            "prefixes": [], "table": 202, "routing": "in_place",
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}});
        let status: Status = serde_json::from_value(serde_json::json!({"healthy": false,
            "corrections": 0, "tunnels": [tunnel], "groups": [group], "uplinks": [], "problems": []}))
        .unwrap();
        let text = MetricsSnapshot { status, ..page() }.write().unwrap();
        for line in [
            "sixxs_group_link_active{group=\"lan\",link=\"he\"} 0.0\n",
            "sixxs_group_link_active{group=\"lan\",link=\"wg0\"} 1.0\n",
            "sixxs_group_switches_total{group=\"lan\"} 3\n",
            "sixxs_probe_loss_ratio{tunnel=\"he\"} 0.25\n",
            "sixxs_probe_reply_seconds{tunnel=\"he\"} 0.5\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
