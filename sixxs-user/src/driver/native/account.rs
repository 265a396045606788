//! Tunnels of an account at a broker: what TIC says about them, and what is done with it.
//!
//! What the broker said once is kept, and asked for again only when there is nothing, when somebody
//! wants it, or when a tunnel made of it has not been answered for long.

use std::time::Duration;

use sixxs_core::{
    broker::tic::saved::Asked,
    config::{Account, Learned, Tunnel},
    tunnel::{Driver as State, LockedOut},
    types::IfName,
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Work;
use crate::{
    broker::{
        cache::Cache,
        tic::{self, Goal, Login, Outcome, Parameters, Request, Retry, Times, TlsChoice},
    },
    driver::{backoff::Backoff, process::Process},
};

/// A tunnel that is not answered for so long may have been changed at the broker.
const STALE: Duration = Duration::from_secs(15 * 60);

/// It is asked about at ever longer intervals.
const LONGEST_STALE: Duration = Duration::from_secs(24 * 3600);

/// After an answer that will be the same until somebody changes something at the broker.
const REFUSED: Duration = Duration::from_secs(3600);

/// A wait for a slot is looked at again after so long.
const SLOT_AGAIN: Duration = Duration::from_secs(60);

/// What is known of the tunnel of an account from before.
pub(crate) async fn known(cache: &Cache, name: &IfName, account: &Account) -> Option<Learned> {
    let parameters = cache.load(name, &asked(account)).await?;
    Some(Learned::new(account, &parameters))
}

fn asked(account: &Account) -> Asked {
    let aiccu = &account.aiccu;
    Asked {
        server: aiccu.server.clone(),
        username: aiccu.username.clone(),
        tunnel_id: aiccu.tunnel_id.clone(),
    }
}

impl Work {
    /// Keeps the tunnel of an account up; never ends by itself.
    pub(super) async fn keep_account(
        &mut self,
        tunnel: &Tunnel,
        account: &Account,
        mut refresh: bool,
    ) {
        let mut stale = STALE;
        let mut is_set_up = false;
        loop {
            let parameters = self.parameters(account, refresh).await;
            let learned = Learned::new(account, &parameters);
            self.report.learned(learned.clone());
            if !is_set_up && let Some(script) = &account.aiccu.setupscript {
                is_set_up = true;
                self.set_up_by(script.clone());
            }
            self.stale_after = Some(stale);
            self.keep(&tunnel.with(&learned)).await;
            info!(
                "{}: nothing was heard of the broker; asking TIC anew",
                self.name
            );
            stale = (stale * 2).min(LONGEST_STALE);
            refresh = true;
        }
    }

    /// What is known of the tunnel, or what the broker says; returns when there is an answer.
    async fn parameters(&self, account: &Account, refresh: bool) -> Parameters {
        let aiccu = &account.aiccu;
        let asked = asked(account);
        if !refresh && let Some(parameters) = self.cache.load(&self.name, &asked).await {
            return parameters;
        }
        let mut backoff = Backoff::default();
        loop {
            let words = format!("asking {} about the tunnel", aiccu.server);
            self.report.say(State::Working(Some(words)));
            let pause = match tic::fetch(request(account), &self.connects).await {
                Ok(Outcome::Parameters(parameters)) => {
                    if let Err(error) = self.cache.save(&self.name, &asked, &parameters).await {
                        warn!("{}: keep what the broker said: {error:#}", self.name);
                    }
                    return parameters;
                }
                // Nothing else was asked for.
                Ok(Outcome::Tunnels(_) | Outcome::Pops(_)) => backoff.failed(),
                Err(error) => self.pause_after(&error, &mut backoff),
            };
            sleep(pause).await;
        }
    }

    /// Says what is wrong, and how long to wait.
    fn pause_after(&self, error: &tic::Error, backoff: &mut Backoff) -> Duration {
        match error.retry() {
            Retry::After(wait) if wait.why.is_lockout() => {
                self.report.say(State::LockedOut(LockedOut {
                    until_unix: self
                        .clock
                        .unix_seconds()
                        .saturating_add(wait.remaining.as_secs()),
                    reason: error.to_string(),
                }));
                wait.remaining.min(SLOT_AGAIN)
            }
            Retry::After(wait) => {
                let words = match error {
                    tic::Error::Wait { server, wait } => {
                        format!("{server}: {}", self.in_words(wait))
                    }
                    error => error.to_string(),
                };
                self.report.say(State::Working(Some(words)));
                wait.remaining.min(SLOT_AGAIN)
            }
            Retry::Later => {
                self.report.say(State::Retrying(error.to_string()));
                backoff.failed()
            }
            Retry::WhenChanged => {
                self.report.say(State::Failed(error.to_string()));
                REFUSED
            }
        }
    }

    /// Runs the user's script, once, beside everything else. What becomes of it is only logged.
    fn set_up_by(&self, script: String) {
        let name = self.name.clone();
        let mut said = self.report.said.subscribe();
        tokio::task::spawn_local(async move {
            if said.wait_for(|said| said.has_made).await.is_err() {
                // The tunnel was given up before.
                return;
            }
            let outcome = match Process::start(&[script]) {
                Ok(mut process) => process.wait().await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                warn!("{name}: setupscript: {error:#}");
            }
        });
    }
}

fn request(account: &Account) -> Request {
    let aiccu = &account.aiccu;
    Request {
        server: aiccu.server.clone(),
        tls: TlsChoice {
            ca: account.tls.ca.as_ref().map(Into::into),
            verify: account.tls.verify,
        },
        login: Login {
            username: aiccu.username.clone(),
            password: aiccu.password.clone(),
            require_tls: aiccu.requiretls,
            agent: tic::agent(),
        },
        goal: Goal::Parameters {
            tunnel_id: aiccu.tunnel_id.clone(),
        },
        times: Times::default(),
    }
}
