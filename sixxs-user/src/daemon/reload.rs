//! A reload: the tunnels that a new configuration stops and starts, and the configuration to revert to.
//!
//! Must not know drivers, the kernel or the loop: the loop carries out what this decides.

use std::time::Duration;

use sixxs_core::{
    change::Change,
    config::{Config, Tunnel},
    types::IfName,
};

use crate::{
    control::{ActionError, Outcome},
    host::kernel_support,
};

/// When a revert cannot be carried out, it is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// A configuration on trial. Times are since the start of the daemon.
#[derive(Debug, Default)]
pub(super) struct Trial {
    before: Option<Rollback>,
    /// Why the last revert was refused.
    refusal: Option<String>,
}

/// The configuration to revert to, and when.
#[derive(Debug)]
struct Rollback {
    config: Config,
    ends: Duration,
}

impl Trial {
    /// A reload has replaced `before`. It is on trial for `confirm_within`, or not at all.
    pub(super) fn begin(
        &mut self,
        before: Config,
        confirm_within: Option<Duration>,
        now: Duration,
    ) {
        let earlier = self.before.take();
        self.before = confirm_within.map(|time| Rollback {
            // A trial during a trial reverts to the last configuration that was confirmed.
            config: earlier.map_or(before, |earlier| earlier.config),
            ends: now.saturating_add(time),
        });
        self.refusal = None;
    }

    /// When to revert.
    pub(super) fn ends(&self) -> Option<Duration> {
        self.before.as_ref().map(|before| before.ends)
    }

    /// Confirms the present configuration.
    pub(super) fn confirm(&mut self) -> Outcome {
        match self.before.take() {
            Some(_) => Ok(()),
            None => Err(ActionError::NothingToConfirm),
        }
    }

    /// Ends the trial. Returns the configuration to revert to.
    pub(super) fn end(&mut self) -> Option<Config> {
        self.before.take().map(|before| before.config)
    }

    /// The revert to this configuration was refused, and is tried again later. Returns whether the refusal
    /// differs from the last one.
    pub(super) fn retry(&mut self, config: Config, refusal: &ActionError, now: Duration) -> bool {
        self.before = Some(Rollback {
            config,
            ends: now.saturating_add(RETRY),
        });
        let refusal = Some(refusal.to_string());
        let is_new = self.refusal != refusal;
        self.refusal = refusal;
        is_new
    }
}

/// The drivers that a new configuration stops and starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Tunnels that are gone, or differ.
    pub(super) stop: Vec<IfName>,
    /// Tunnels that are new, or differ.
    pub(super) start: Vec<Tunnel>,
}

impl Changes {
    /// The changes from one configuration to another.
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let change = Change::between(old, new, kernel_support::can_carry());
        let starts = change.starts();
        let tunnels = new.tunnels.iter();
        let started = tunnels.filter(|tunnel| starts.contains(&tunnel.name));
        Self {
            stop: change.stops(),
            start: started.cloned().collect(),
        }
    }

    /// The tunnels that it stops or starts.
    pub(super) fn affected(&self) -> impl Iterator<Item = &IfName> {
        let start = self.start.iter().map(|tunnel| &tunnel.name);
        self.stop.iter().chain(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tunnels: &[(&str, &str)]) -> Config {
        let text: String = (1..)
            .zip(tunnels)
            .map(|(number, (name, up))| {
                format!(
                    "[[tunnel]]\nname = \"{name}\"\nkind = \"command\"\naddress = \"2001:db8:{number}::1/64\"\n\
                     up = [\"{up}\"]\ndown = [\"true\"]\n"
                )
            })
            .collect();
        sixxs_core::config::parse("test", &text).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_tunnels_that_differ_are_touched() {
        let old = config(&[("a", "/1"), ("b", "/2"), ("c", "/3")]);
        let new = config(&[("a", "/1"), ("b", "/9"), ("d", "/4")]);
        let changes = Changes::between(&old, &new);
        let mut touched: Vec<_> = changes.affected().map(IfName::as_str).collect();
        touched.sort_unstable();
        assert_eq!(touched, ["b", "b", "c", "d"]);
        let started = changes.start.iter().map(|tunnel| tunnel.name.as_str());
        assert_eq!(started.collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(Changes::between(&old, &old), Changes::default());
    }

    #[test]
    fn a_trial_reverts_to_the_last_confirmed_configuration() {
        let [first, second] = [config(&[("a", "/1")]), config(&[("b", "/2")])];
        let mut trial = Trial::default();
        assert!(trial.confirm().is_err());
        trial.begin(first.clone(), Some(at(60)), at(1));
        assert_eq!(trial.ends(), Some(at(61)));
        trial.begin(second.clone(), Some(at(60)), at(10));
        assert_eq!(trial.ends(), Some(at(70)));
        assert_eq!(trial.end(), Some(first.clone()));
        assert_eq!((trial.ends(), trial.end()), (None, None));
        let refusal = ActionError::Stopping("a".parse().unwrap());
        assert!(trial.retry(first.clone(), &refusal, at(70)));
        assert_eq!(trial.ends(), Some(at(71)));
        assert_eq!(trial.end(), Some(first.clone()));
        assert!(!trial.retry(first.clone(), &refusal, at(71)));
        trial.confirm().unwrap();
        assert_eq!(trial.ends(), None);
        // A reload without a trial confirms.
        trial.begin(first, Some(at(60)), at(80));
        trial.begin(second, None, at(81));
        assert_eq!(trial.ends(), None);
    }
}
