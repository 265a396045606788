//! Sends alerts as JSON to other programs: to a command's standard input, or to a web server by POST.
//!
//! Each hook has its own queue and task, so that a slow hook does not delay the other one or the daemon. An
//! attempt has a time limit, an alert has a number of attempts, and a queue has a maximum length.
//!
//! Tasks: one for each hook; they end when the [`Hooks`] are dropped.

mod queue;
mod webhook;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use sixxs_core::config::{Alerting, Webhook};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{control::api::Alert, driver::process::Process};
use queue::{Next, Queue};

/// Time limit of an attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Pauses between attempts; there is one more attempt than pauses.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// At the end, how often to check whether all alerts are sent.
const IDLE_CHECK: Duration = Duration::from_millis(20);

/// The hooks of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    alerting: Alerting,
    hooks: Vec<Hook>,
}

#[derive(Debug)]
struct Hook {
    name: &'static str,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The receiver of a hook's alerts.
enum Target {
    Command(Vec<String>),
    Webhook(Webhook),
}

impl Hooks {
    /// Sends alerts to the hooks of this configuration from now on. If a hook was in the configuration before,
    /// its queue stays.
    pub(crate) fn set(&mut self, alerting: &Alerting) {
        if self.alerting == *alerting {
            return;
        }
        let command = (!alerting.command.is_empty())
            .then(|| ("command", Target::Command(alerting.command.clone())));
        let webhook = alerting.webhook.clone();
        let webhook = webhook.map(|webhook| ("webhook", Target::Webhook(webhook)));
        let before = std::mem::take(&mut self.hooks);
        for (name, target) in [command, webhook].into_iter().flatten() {
            let known = before.iter().find(|hook| hook.name == name);
            let queue = known.map_or_else(Arc::default, |hook| Arc::clone(&hook.queue));
            let task = tokio::spawn(deliver_all(name, target, Arc::clone(&queue)));
            self.hooks.push(Hook { name, queue, task });
        }
        self.alerting = alerting.clone();
    }

    /// Queues an alert for all hooks.
    pub(crate) fn raise(&self, alert: &Alert) {
        if self.hooks.is_empty() {
            return;
        }
        match serde_json::to_string(alert) {
            Ok(line) => {
                for hook in &self.hooks {
                    if hook.queue.push(line.clone()) {
                        let name = hook.name;
                        warn!("the hook {name} is too slow: the oldest alerts are dropped");
                    }
                }
            }
            Err(error) => debug!("write an alert as JSON: {error}"),
        }
    }

    /// The number of lost alerts, by hook.
    pub(crate) fn dropped(&self) -> Vec<(&'static str, u64)> {
        let hooks = self.hooks.iter();
        hooks
            .map(|hook| (hook.name, hook.queue.dropped()))
            .collect()
    }

    /// Hooks that fail, as messages.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.hooks.iter().filter_map(|hook| {
            let failure = hook.queue.failure()?;
            Some(format!(
                "alerts do not reach the hook {}: {failure}",
                hook.name
            ))
        })
    }

    /// Waits until all alerts are sent, up to a limit.
    pub(crate) async fn finish(self, limit: Duration) {
        let finished = async {
            while !self.hooks.iter().all(|hook| hook.queue.is_idle()) {
                sleep(IDLE_CHECK).await;
            }
        };
        if timeout(limit, finished).await.is_err() {
            warn!("not all alerts were delivered");
        }
    }
}

async fn deliver_all(name: &'static str, target: Target, queue: Arc<Queue>) {
    loop {
        let next = queue.next().await;
        let line = match next.clone() {
            Next::Alert(line) => line,
            Next::Dropped(alerts) => {
                let time = jiff::Timestamp::now().to_string();
                json!({ "time": time, "kind": "dropped", "alerts": alerts }).to_string()
            }
        };
        let mut pauses = PAUSES.into_iter();
        let failure = loop {
            let Err(error) = target.deliver(&line).await else {
                break None;
            };
            debug!("the hook {name}: {error:#}");
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => break Some(format!("{error:#}")),
            }
        };
        if let Some(failure) = &failure {
            warn!("an alert did not reach the hook {name}: {failure}");
        }
        queue.record_result(&next, failure);
    }
}

impl Target {
    async fn deliver(&self, line: &str) -> anyhow::Result<()> {
        match self {
            Self::Command(command) => {
                let input = format!("{line}\n").into_bytes();
                Process::start_with(command, input, ATTEMPT_LIMIT)?
                    .wait()
                    .await
            }
            Self::Webhook(webhook) => {
                match timeout(ATTEMPT_LIMIT, webhook::post(webhook, line)).await {
                    Ok(posted) => posted,
                    Err(_) => anyhow::bail!(
                        "{} did not answer within {} s",
                        webhook.url.host,
                        ATTEMPT_LIMIT.as_secs()
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::About;

    fn alert(problem: &str) -> Alert {
        Alert {
            time: "2026-01-01T00:00:00Z".to_owned(),
            about: About::Problem {
                problem: problem.to_owned(),
            },
            more: 0,
        }
    }

    fn commands(command: &[&str]) -> Alerting {
        Alerting {
            command: command.iter().map(ToString::to_string).collect(),
            webhook: None,
        }
    }

    #[tokio::test]
    async fn a_command_gets_each_alert_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("alerts");
        let script = format!("cat >> {}", file.display());
        let mut hooks = Hooks::default();
        hooks.set(&commands(&["sh", "-c", &script]));
        for problem in ["one", "two"] {
            hooks.raise(&alert(problem));
        }
        hooks.finish(Duration::from_secs(10)).await;
        let alerts = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = alerts.lines().collect();
        let line = |problem| {
            format!(r#"{{"time":"2026-01-01T00:00:00Z","kind":"problem","problem":"{problem}"}}"#)
        };
        assert_eq!(lines, [line("one"), line("two")]);
    }

    #[tokio::test]
    async fn a_failing_hook_is_retried_and_then_reported() {
        let mut hooks = Hooks::default();
        hooks.set(&commands(&["sh", "-c", "echo no disk >&2; exit 3"]));
        hooks.raise(&alert("one"));
        let named = async {
            while hooks.problems().next().is_none() {
                sleep(IDLE_CHECK).await;
            }
        };
        timeout(Duration::from_secs(20), named).await.unwrap();
        let problems: Vec<_> = hooks.problems().collect();
        assert!(problems[0].contains("the hook command") && problems[0].contains("no disk"));
        // Without the hook in the configuration the problem disappears.
        hooks.set(&Alerting::default());
        assert_eq!(hooks.problems().count(), 0);
    }
}
