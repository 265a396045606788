//! The part of the status and the alerts that the page shows: the data of an event `state`. Pure.
//!
//! Every client that reaches the address may read this, and nothing else is sent. Values that change all the time are in [`super::rates`] instead, so that this is sent only after changes.

use std::{collections::VecDeque, net::Ipv6Addr};

use serde::Serialize;

use crate::control::{
    api::{
        About, Alert, Carrier, Group, GroupLink, Health, Hook, Kind, Leak, LinkState, Program,
        Routing, State, Status, Tunnel, UpdateState, Uplink, XdpMode,
    },
    text,
};

/// The maximum number of addresses and prefixes of a tunnel or a group. `sixxs status --json` has all.
const MAX_SOURCES: usize = 8;

/// The maximum number of incidents, the newest ones.
const MAX_INCIDENTS: usize = 20;

/// The data of an event `state`.
#[derive(Debug, Serialize)]
pub(super) struct View<'a> {
    host: &'a str,
    version: &'static str,
    healthy: bool,
    corrections: u64,
    tunnels: Vec<TunnelView<'a>>,
    groups: Vec<GroupView<'a>>,
    uplinks: Vec<UplinkView<'a>>,
    incidents: &'a VecDeque<Incident>,
    problems: Vec<Reason>,
}

#[derive(Debug, Serialize)]
struct TunnelView<'a> {
    name: &'a str,
    kind: Kind,
    state: State,
    health: Health,
    /// End of a lockout, in RFC 3339.
    until: Option<&'a str>,
    reasons: Vec<Reason>,
    sources: Sources,
    deprecated: &'a [Ipv6Addr],
    interface: Option<&'a str>,
    endpoint: Option<&'a str>,
    carrier: Option<Carrier>,
    table: u32,
    mtu: Option<u32>,
    routing: Routing,
    program: Program,
    available_percent_24h: Option<f64>,
    outages_24h: Option<u32>,
}

/// A sentence, and what to do.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Reason {
    sentence: String,
    cure: Option<String>,
}

/// Addresses and prefixes.
#[derive(Debug, Serialize)]
struct Sources {
    first: Vec<String>,
    more: usize,
}

#[derive(Debug, Serialize)]
struct GroupView<'a> {
    name: &'a str,
    active: &'a str,
    switches: u64,
    links: Vec<LinkView<'a>>,
    prefixes: Sources,
    routing: Routing,
}

#[derive(Debug, Serialize)]
struct LinkView<'a> {
    name: &'a str,
    state: LinkState,
}

#[derive(Debug, Serialize)]
struct UplinkView<'a> {
    name: &'a str,
    program: Program,
    hook: Option<Hook>,
    xdp: Option<&'static str>,
}

/// A leak or a correction, with its culprit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Incident {
    /// In RFC 3339.
    time: String,
    kind: &'static str,
    tunnel: Option<String>,
    what: String,
    /// Who has caused it; `null`: unknown.
    culprit: Option<String>,
    why: Option<String>,
    cure: Option<String>,
}

impl<'a> View<'a> {
    /// `host`: the name of this host.
    pub(super) fn of(host: &'a str, status: &'a Status, incidents: &'a VecDeque<Incident>) -> Self {
        let problems = status.problems.iter();
        Self {
            host,
            version: env!("CARGO_PKG_VERSION"),
            healthy: status.healthy,
            corrections: status.corrections,
            tunnels: status.tunnels.iter().map(tunnel).collect(),
            groups: status.groups.iter().map(group).collect(),
            uplinks: status.uplinks.iter().map(uplink).collect(),
            incidents,
            problems: problems.map(|problem| reason(problem)).collect(),
        }
    }
}

fn tunnel(tunnel: &Tunnel) -> TunnelView<'_> {
    let addresses = tunnel.addresses.iter().map(ToString::to_string);
    TunnelView {
        name: &tunnel.name,
        kind: tunnel.kind,
        state: tunnel.state,
        health: tunnel.health,
        until: tunnel.until.as_deref(),
        reasons: reasons(tunnel),
        sources: sources(addresses.chain(tunnel.prefixes.iter().cloned())),
        deprecated: &tunnel.deprecated,
        interface: tunnel.interface.as_deref(),
        endpoint: tunnel.endpoint.as_deref(),
        carrier: tunnel.carrier,
        table: tunnel.table,
        mtu: tunnel.mtu,
        routing: tunnel.routing,
        program: tunnel.program,
        available_percent_24h: tunnel.available_percent_24h,
        outages_24h: tunnel.outages_24h,
    }
}

/// Why a tunnel is not healthy, and what else is to be known.
fn reasons(tunnel: &Tunnel) -> Vec<Reason> {
    let silent = tunnel.outer.iter();
    let silent = silent.filter_map(|outer| outer.sentence.as_ref());
    let update = tunnel.update.iter();
    let update = update.filter(|update| update.state == UpdateState::Failed);
    let texts = tunnel.health_reasons.iter();
    let texts = texts.chain(update.map(|update| &update.sentence));
    // Its clauses are facts.
    let silent = silent.map(|text| Reason {
        sentence: text.clone(),
        cure: None,
    });
    texts.map(|text| reason(text)).chain(silent).collect()
}

/// The last clause of a text is what to do, if there are several.
fn reason(text: &str) -> Reason {
    match text.rsplit_once("; ") {
        Some((sentence, cure)) => Reason {
            sentence: sentence.to_owned(),
            cure: Some(cure.to_owned()),
        },
        None => Reason {
            sentence: text.to_owned(),
            cure: None,
        },
    }
}

fn sources(all: impl Iterator<Item = String>) -> Sources {
    let mut first: Vec<_> = all.collect();
    let more = first.len().saturating_sub(MAX_SOURCES);
    first.truncate(MAX_SOURCES);
    Sources { first, more }
}

fn link(link: &GroupLink) -> LinkView<'_> {
    LinkView {
        name: &link.name,
        state: link.state,
    }
}

fn group(group: &Group) -> GroupView<'_> {
    GroupView {
        name: &group.name,
        active: &group.active,
        switches: group.switches,
        links: group.links.iter().map(link).collect(),
        prefixes: sources(group.prefixes.iter().cloned()),
        routing: group.routing,
    }
}

fn uplink(uplink: &Uplink) -> UplinkView<'_> {
    let xdp = uplink.xdp.as_ref();
    UplinkView {
        name: &uplink.name,
        program: uplink.program,
        hook: uplink.hook,
        xdp: xdp.and_then(|xdp| xdp.mode.map(XdpMode::name)),
    }
}

/// Adds an alert to the incidents, the newest first, if it is one.
pub(super) fn add(incidents: &mut VecDeque<Incident>, alert: Alert) {
    let found = match alert.about {
        About::Leak(leak) => Some(leaked(alert.time, *leak)),
        About::Correction {
            tunnel,
            correction,
            by,
        } => Some(Incident {
            time: alert.time,
            kind: "correction",
            tunnel,
            what: correction,
            culprit: by,
            why: None,
            cure: None,
        }),
        _ => None,
    };
    if let Some(incident) = found {
        incidents.push_front(incident);
        incidents.truncate(MAX_INCIDENTS);
    }
}

fn leaked(time: String, leak: Leak) -> Incident {
    let culprit = text::sender(&leak);
    Incident {
        time,
        kind: "leak",
        what: text::leaked_packets(&leak),
        culprit: (!culprit.is_empty()).then(|| culprit.join(", ")),
        tunnel: Some(leak.tunnel),
        why: leak.why,
        cure: leak.cure,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::fixture::status;

    #[test]
    fn sentences_have_their_cure() {
        let mut status = status(&["sixxs0"]);
        status.tunnels[0].health_reasons = vec![
            "its interface has no carrier; look at the far end of the link".to_owned(),
            "its rules or routes are missing".to_owned(),
        ];
        let none = VecDeque::new();
        let view = serde_json::to_value(View::of("web1", &status, &none)).unwrap();
        assert_eq!(
            view["tunnels"][0]["reasons"],
            json!([
                {"sentence": "its interface has no carrier", "cure": "look at the far end of the link"},
                {"sentence": "its rules or routes are missing", "cure": null},
            ])
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let mut status = status(&["sixxs0"]);
        let prefixes = (0..20).map(|number| format!("2001:db8:{number}::/48"));
        status.tunnels[0].prefixes = prefixes.collect();
        let none = VecDeque::new();
        let view = serde_json::to_value(View::of("web1", &status, &none)).unwrap();
        let sources = &view["tunnels"][0]["sources"];
        assert_eq!(sources["first"].as_array().unwrap().len(), MAX_SOURCES);
        assert_eq!(sources["more"], 13);
    }

    #[test]
    fn a_group_has_its_active_link() {
        let mut status = status(&["he", "wg"]);
        let group = json!({"name": "home", "active": "wg", "active_seconds": 7.0, "switches": 1,
            "links": [{"name": "he", "state": "failing"}, {"name": "wg", "state": "good"}],
            "prefixes": ["2001:db8:cc::/48"], "table": 202, "routing": "in_place",
            "leaks": {"redirected": 0, "dropped": 0, "observed": 0, "too_big": 0}});
        status.groups = vec![serde_json::from_value(group).unwrap()];
        let none = VecDeque::new();
        let view = serde_json::to_value(View::of("web1", &status, &none)).unwrap();
        assert_eq!(
            view["groups"],
            json!([{"name": "home", "active": "wg", "switches": 1, "routing": "in_place",
                "links": [{"name": "he", "state": "failing"}, {"name": "wg", "state": "good"}],
                "prefixes": {"first": ["2001:db8:cc::/48"], "more": 0}}])
        );
    }

    /// Values that change all the time would make each event a large one.
    #[test]
    fn counters_do_not_change_it() {
        let none = VecDeque::new();
        let text = |status: &Status| serde_json::to_string(&View::of("web1", status, &none));
        let mut status = status(&["sixxs0"]);
        let before = text(&status).unwrap();
        let tunnel = &mut status.tunnels[0];
        tunnel.bytes.incoming = 1;
        tunnel.echo.last_request_in_seconds_ago = Some(1.0);
        tunnel.proof.answered = 1;
        tunnel.leaks.redirected = 9;
        status.uplinks[0].bytes.out = 1;
        assert_eq!(text(&status).unwrap(), before);
    }

    #[test]
    fn incidents_are_leaks_and_corrections() {
        let alert = |about| Alert {
            time: "2026-11-02T03:12:00Z".to_owned(),
            about,
            more: 0,
        };
        let mut incidents = VecDeque::new();
        let leak = Leak {
            tunnel: "sixxs0".to_owned(),
            packets: 5,
            uid: Some(33),
            unit: Some("<b>web</b>.service".to_owned()),
            cure: Some("bind it to the address".to_owned()),
            ..Leak::default()
        };
        add(&mut incidents, alert(About::Leak(Box::new(leak))));
        let problem = "none".to_owned();
        add(&mut incidents, alert(About::Problem { problem }));
        let correction = |number: usize| About::Correction {
            tunnel: None,
            correction: format!("ip -6 rule {number}"),
            by: Some("networkd (12)".to_owned()),
        };
        add(&mut incidents, alert(correction(0)));
        let shown = serde_json::to_value(&incidents).unwrap();
        assert_eq!(shown[0]["kind"], "correction");
        assert_eq!(shown[0]["culprit"], "networkd (12)");
        assert_eq!(shown[1]["what"], "5 packets of other flows leaked");
        assert_eq!(shown[1]["culprit"], "uid 33, <b>web</b>.service");
        (0..99).for_each(|number| add(&mut incidents, alert(correction(number))));
        assert_eq!(incidents.len(), MAX_INCIDENTS);
        assert_eq!(incidents[0].what, "ip -6 rule 98");
    }
}
