//! The probes of links: which run, and what they have found.
//!
//! Must not know groups or the loop. Each [`Prober`] has a task, which ends with it.

use std::collections::BTreeMap;

use sixxs_core::{
    config::{Config, Probe, Tunnel},
    link_quality::{ProbeWindow, Quality, Summary},
    types::IfName,
};
use tokio::{sync::mpsc, time::Instant};

use crate::host::prober::{ProbePath, Probed, Prober};

/// Limit of finished probes that wait.
pub(super) const WAITING: usize = 64;

/// All probes.
pub(super) struct Probes {
    finished: mpsc::Sender<Probed>,
    links: BTreeMap<IfName, ProbedLink>,
}

/// A link that is probed.
struct ProbedLink {
    prober: Prober,
    window: ProbeWindow,
}

impl Probes {
    /// None runs yet. Finished probes go to this channel.
    pub(super) const fn new(finished: mpsc::Sender<Probed>) -> Self {
        Self {
            finished,
            links: BTreeMap::new(),
        }
    }

    /// Probes the links of this configuration that `is_up` accepts. A link that comes up begins again.
    pub(super) fn follow(&mut self, config: &Config, is_up: impl Fn(&IfName) -> bool) {
        let is_probed = |tunnel: &&Tunnel| is_up(&tunnel.name);
        let wanted = config.tunnels.iter().filter(is_probed);
        let wanted: BTreeMap<_, _> = wanted
            .filter_map(|tunnel| Some((&tunnel.name, wish(config, tunnel)?)))
            .collect();
        self.links.retain(|name, link| {
            let wish = wanted.get(name);
            wish.is_some_and(|(_, limits)| *limits == link.window.limits())
        });
        for (name, (path, limits)) in wanted {
            let start = || Prober::start(name.clone(), path, limits, self.finished.clone());
            match self.links.get_mut(name) {
                Some(link) if link.prober.path() == path => {}
                // Its address has changed: the results so far stay.
                Some(link) => link.prober = start(),
                None => {
                    let link = ProbedLink {
                        prober: start(),
                        window: ProbeWindow::new(limits),
                    };
                    self.links.insert(name.clone(), link);
                }
            }
        }
    }

    /// Takes a finished probe. Returns whether the link fails now and did not before, or the other way round.
    /// `started`: the moment from which times count.
    pub(super) fn add(&mut self, probed: &Probed, started: Instant) -> bool {
        let sent = probed.sent.saturating_duration_since(started);
        let link = self.links.get_mut(&probed.link);
        link.is_some_and(|link| link.window.add(sent, probed.reply))
    }

    /// The result for a link.
    pub(super) fn quality(&self, link: &IfName) -> Quality {
        let link = self.links.get(link);
        link.map_or(Quality::Good, |link| link.window.quality())
    }

    /// The numbers of a link; `None`: it is not probed.
    pub(super) fn summary(&self, link: &IfName) -> Option<Summary> {
        self.links.get(link).map(|link| link.window.summary())
    }
}

/// The path and the limits of a link's probes; `None`: it is not probed, or it has no address.
fn wish(config: &Config, tunnel: &Tunnel) -> Option<(ProbePath, Probe)> {
    let is_needed = tunnel.deprecate_when_failing || config.is_in_group(&tunnel.name);
    let limits = tunnel.probe_if(is_needed)?;
    let path = ProbePath {
        source: tunnel.addresses.first()?.address,
        target: tunnel.probe_target()?,
    };
    Some((path, limits))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sixxs_core::config;

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "[[link]]\nname = \"he\"\nkind = \"interface\"\naddress = \"2001:db8:a::2/64\"\n\
             check_target = \"2001:db8:f::1\"\n{more}"
        );
        config::parse("test", &text).unwrap()
    }

    #[tokio::test]
    async fn a_link_whose_addresses_depend_on_it_is_probed() {
        let (finished, _receiver) = mpsc::channel(WAITING);
        let mut probes = Probes::new(finished);
        let mut config = config("");
        config.tunnels[0].deprecate_when_failing = true;
        probes.follow(&config, |_| true);
        let he = &config.tunnels[0].name.clone();
        assert!(probes.summary(he).is_some());
        config.tunnels[0].check_target = None;
        probes.follow(&config, |_| true);
        assert_eq!(probes.summary(he), None, "nothing answers");
    }

    #[tokio::test]
    async fn links_with_a_section_about_it_are_probed_while_they_are_up() {
        let (finished, _receiver) = mpsc::channel(WAITING);
        let mut probes = Probes::new(finished);
        let he: IfName = "he".parse().unwrap();
        let started = Instant::now();
        let lost = Probed {
            link: he.clone(),
            sent: started,
            reply: None,
        };
        probes.follow(&config(""), |_| true);
        assert_eq!(probes.summary(&he), None);
        assert!(!probes.add(&lost, started), "nobody asked for it");
        let probed = config("[link.probe]\nwindow_seconds = 2\n");
        probes.follow(&probed, |_| false);
        assert_eq!(probes.summary(&he), None);
        probes.follow(&probed, |_| true);
        assert_eq!(probes.summary(&he), Some(Summary::default()));
        // Of four probes, one may be lost.
        assert!(probes.add(&lost, started));
        assert!(matches!(
            probes.quality(&he),
            Quality::Lossy { lost: 1, .. }
        ));
        // Another address of the link does not make it better; new limits do.
        let mut moved = probed.clone();
        moved.tunnels[0].addresses[0].address = "2001:db8:a::3".parse().unwrap();
        probes.follow(&moved, |_| true);
        assert_ne!(probes.quality(&he), Quality::Good);
        probes.follow(&config("[link.probe]\nwindow_seconds = 3\n"), |_| true);
        assert_eq!(probes.quality(&he), Quality::Good);
        // A link that comes up again begins again.
        probes.follow(&probed, |_| true);
        probes.add(&lost, started + Duration::from_secs(1));
        probes.follow(&probed, |_| false);
        probes.follow(&probed, |_| true);
        assert_eq!(probes.summary(&he), Some(Summary::default()));
    }
}
