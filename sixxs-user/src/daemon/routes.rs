//! Rules, routes and interfaces of native tunnels: plans, applies and looks again, until nothing is left to do.
//!
//! Must not know the programs, the tunnels' drivers or the loop. The kernel is behind [`RoutingHost`].

use std::time::Duration;

use sixxs_core::{
    failure_tracker::FailureTracker,
    routing::{Desired, InPlace, Observed, Owners, Plan, Problem, Step, diff},
};
use tracing::debug;

use super::tamper_log::Correction;
use crate::netlink::{Netlink, Outcome, Removed, Scope};

/// Limit of plans in a round. Other software may change the same objects meanwhile. Steps that are left after the
/// last plan are problems.
const MAX_PLANS: usize = 3;

/// The host whose rules, routes and interfaces are reconciled.
pub(super) trait RoutingHost {
    /// Reads them.
    async fn observe(&mut self, scope: &Scope) -> anyhow::Result<Observed>;
    /// Carries out a plan.
    async fn apply(&mut self, plan: &Plan) -> Outcome;
}

impl RoutingHost for Netlink {
    async fn observe(&mut self, scope: &Scope) -> anyhow::Result<Observed> {
        Self::observe(self, scope).await
    }

    async fn apply(&mut self, plan: &Plan) -> Outcome {
        Self::apply(self, plan).await
    }
}

/// The state that [`Routes::reconcile`] brings about.
pub(super) struct RoutingGoal<'a> {
    /// Rules, routes and interfaces.
    pub(super) desired: &'a Desired,
    /// The tunnels that these belong to.
    pub(super) owners: &'a Owners,
    /// The scope of a scan.
    pub(super) scope: &'a Scope,
}

/// Rules and routes as of the last scan.
#[derive(Debug, Default)]
pub(super) struct Routes {
    observed: Observed,
    /// The steps and problems that the last round left.
    plan: Plan,
    in_place: InPlace,
    /// Steps that failed, until the next round shows whether they succeed.
    failures: FailureTracker,
}

impl Routes {
    /// The host, as the last scan found it.
    pub(super) const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The steps and problems that the last round left.
    pub(super) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Reads interfaces, rules and routes.
    pub(super) async fn scan(
        &mut self,
        host: &mut impl RoutingHost,
        scope: &Scope,
    ) -> anyhow::Result<()> {
        self.observed = host.observe(scope).await?;
        Ok(())
    }

    /// Reconciles the host with the goal, starting from the last scan. Adds restored objects to `corrections`,
    /// and returns problems.
    pub(super) async fn reconcile(
        &mut self,
        host: &mut impl RoutingHost,
        goal: &RoutingGoal<'_>,
        corrections: &mut Vec<Correction>,
        now: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let desired = goal.desired;
        let mut failed = Vec::new();
        self.plan = diff(desired, &self.observed);
        for _ in 0..MAX_PLANS {
            if self.plan.steps.is_empty() {
                break;
            }
            let outcome = host.apply(&self.plan).await;
            for step in &outcome.done {
                debug!("{step}");
                let is_restored = self.in_place.is_restored_by(step, desired);
                corrections.extend(is_restored.then(|| correction(step, goal.owners)).flatten());
            }
            failed = outcome.failed;
            // The kernel may accept a step without effect. The next plan has every step that is still needed.
            self.scan(host, goal.scope).await?;
            self.plan = diff(desired, &self.observed);
        }
        let failures: Vec<_> = failed.iter().map(ToString::to_string).collect();
        let mut problems = self.failures.update(now, &failures);
        let found = self.plan.problems.iter().filter(|problem| match problem {
            Problem::Occupied { .. } | Problem::MtuTooSmall { .. } => true,
            // The state of the tunnel shows a missing interface.
            Problem::InterfaceMissing { .. } | Problem::InterfaceDown { .. } => false,
        });
        problems.extend(found.map(ToString::to_string));
        let in_place = InPlace::of(desired, &self.observed, &self.plan);
        let before = std::mem::replace(&mut self.in_place, in_place);
        let failed_steps = failed.iter().map(|failure| &failure.step);
        self.in_place.keep_failed(&before, failed_steps);
        Ok(problems)
    }

    /// When the next round is due, to see whether a failed step succeeds.
    pub(super) fn retry_due(&self) -> Option<Duration> {
        self.failures.due()
    }
}

/// The correction that a step makes; `None`: the step only removes an object, or resolves a neighbour.
fn correction(step: &Step, owners: &Owners) -> Option<Correction> {
    let removed = match step {
        Step::SetUp(..) => Removed::Link,
        Step::AddAddress(..) => Removed::Address,
        Step::AddRule(_) => Removed::Rule,
        Step::AddPeerRoute(..) | Step::AddRoute(_) | Step::ReplaceRoute(_) => Removed::Route,
        Step::KeepNeighbour(..)
        | Step::DeleteRule(_)
        | Step::DeleteRoute(_)
        | Step::DeleteNeighbour(..) => return None,
    };
    Some(Correction {
        tunnel: step.tunnel(owners).cloned(),
        step: step.to_string(),
        removed,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use sixxs_core::config::Config;

    use super::*;
    use crate::{
        daemon::fixture::{config, host},
        netlink::Failure,
    };

    /// A kernel without rules and routes in it. It refuses steps that contain a text, and never shows the
    /// effect of the others: each round is scripted by what `scans` return.
    struct FakeHost {
        scans: VecDeque<Observed>,
        refuses: &'static str,
        applied: Vec<String>,
    }

    impl RoutingHost for FakeHost {
        async fn observe(&mut self, _: &Scope) -> anyhow::Result<Observed> {
            let next = self.scans.pop_front();
            next.ok_or_else(|| anyhow::anyhow!("the kernel does not answer"))
        }

        async fn apply(&mut self, plan: &Plan) -> Outcome {
            let mut outcome = Outcome::default();
            for step in &plan.steps {
                let text = step.to_string();
                if !self.refuses.is_empty() && text.contains(self.refuses) {
                    let (step, reason) = (step.clone(), "Operation not permitted".to_owned());
                    outcome.failed.push(Failure { step, reason });
                } else {
                    self.applied.push(text);
                    outcome.done.push(step.clone());
                }
            }
            outcome
        }
    }

    fn one_link() -> Observed {
        host(&["sixxs0"])
    }

    struct Scene {
        routes: Routes,
        host: FakeHost,
        config: Config,
        now: Duration,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                routes: Routes::default(),
                host: FakeHost {
                    scans: VecDeque::new(),
                    refuses: "",
                    applied: Vec::new(),
                },
                config: config(&["sixxs0"]),
                now: Duration::ZERO,
            }
        }

        /// One round, which finds `scans` one after the other.
        fn round(
            &mut self,
            scans: impl IntoIterator<Item = Observed>,
        ) -> anyhow::Result<(Vec<String>, Vec<Correction>)> {
            self.now += Duration::from_secs(2);
            self.host.scans = scans.into_iter().collect();
            self.host.applied.clear();
            let desired = Desired::new(&self.config, |_| true);
            let owners = Owners::of(&self.config);
            let scope = Scope::of(&self.config);
            let mut corrections = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let problems = runtime.block_on(async {
                self.routes.scan(&mut self.host, &scope).await?;
                let goal = RoutingGoal {
                    desired: &desired,
                    owners: &owners,
                    scope: &scope,
                };
                let (host, now) = (&mut self.host, self.now);
                self.routes
                    .reconcile(host, &goal, &mut corrections, now)
                    .await
            })?;
            Ok((problems, corrections))
        }
    }

    #[test]
    fn a_host_that_keeps_changing_gets_three_plans() {
        let mut scene = Scene::new();
        let scans = std::iter::repeat_with(one_link).take(4);
        let (problems, corrections) = scene.round(scans).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(corrections.is_empty(), "nothing was in place before");
        let steps = diff(&Desired::new(&config(&["sixxs0"]), |_| true), &one_link()).steps;
        assert_eq!(scene.host.applied.len(), MAX_PLANS * steps.len());
        assert_eq!(scene.routes.plan().steps, steps);
        assert!(scene.host.scans.is_empty());
    }

    #[test]
    fn a_refused_step_is_a_problem_once_it_lasts() {
        let mut scene = Scene::new();
        scene.host.refuses = "rule add from";
        let scans = || std::iter::repeat_with(one_link).take(4);
        let (problems, _) = scene.round(scans()).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(scene.routes.retry_due().is_some());
        let (problems, _) = scene.round(scans()).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("Operation not permitted"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_kernel_that_does_not_answer_is_an_error() {
        let mut scene = Scene::new();
        let error = scene.round([]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel does not answer");
        // It answers once, and not after the first steps.
        assert!(scene.round([one_link()]).is_err());
        assert!(!scene.host.applied.is_empty());
    }
}
