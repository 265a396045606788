//! Tunnels of an account: their parameters come from a TIC server.
//!
//! The parameters are stored. The server gets a new request only if there are none, if a client wants it,
//! or if the broker has not answered for long.

use std::time::Duration;

use sixxs_core::{
    broker::tic::saved::Query,
    config::{Account, Learned, Tunnel},
    tunnel::{DriverState, LockedOut},
    types::IfName,
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Context, NativeTunnel};
use crate::{
    broker::{
        cache::Cache,
        tic::{self, Goal, Login, Outcome, Parameters, Request, Retry, Times, TlsChoice},
    },
    driver::{backoff::Backoff, process::Process},
};

/// Limit of a broker's silence: its parameters may have changed.
const STALE: Duration = Duration::from_secs(15 * 60);

/// The limit doubles each time, up to this.
const LONGEST_STALE: Duration = Duration::from_secs(24 * 3600);

/// Pause after an answer that stays the same until somebody changes something at the broker.
const REFUSED_PAUSE: Duration = Duration::from_secs(3600);

/// A slot is requested again after this time.
const SLOT_RETRY: Duration = Duration::from_secs(60);

/// The stored parameters of an account's tunnel.
pub(crate) async fn stored_parameters(
    cache: &Cache,
    name: &IfName,
    account: &Account,
) -> Option<Learned> {
    let parameters = cache.load(name, &query(account)).await?;
    Some(Learned::new(account, &parameters))
}

fn query(account: &Account) -> Query {
    let aiccu = &account.aiccu;
    Query {
        server: aiccu.server.clone(),
        username: aiccu.username.clone(),
        tunnel_id: aiccu.tunnel_id.clone(),
    }
}

impl NativeTunnel {
    /// Keeps the tunnel of an account up; never returns.
    pub(super) async fn keep_up_account(
        &mut self,
        tunnel: &Tunnel,
        account: &Account,
        mut refresh: bool,
    ) {
        let mut stale = STALE;
        let mut is_set_up = false;
        loop {
            let parameters = self.context.parameters(account, refresh).await;
            let learned = Learned::new(account, &parameters);
            self.context.status.set_learned(learned.clone());
            if !is_set_up && let Some(script) = &account.aiccu.setupscript {
                is_set_up = true;
                self.context.run_setup_script(script.clone());
            }
            self.stale_after = Some(stale);
            self.keep_up(&tunnel.with_learned(&learned)).await;
            info!(
                "{}: the broker does not answer; querying TIC again",
                self.context.name
            );
            stale = (stale * 2).min(LONGEST_STALE);
            refresh = true;
        }
    }
}

impl Context {
    /// The stored parameters, or those that the TIC server returns; waits until it does.
    async fn parameters(&self, account: &Account, refresh: bool) -> Parameters {
        let aiccu = &account.aiccu;
        let query = query(account);
        if !refresh && let Some(parameters) = self.cache.load(&self.name, &query).await {
            return parameters;
        }
        let mut backoff = Backoff::default();
        loop {
            let words = format!("querying {} about the tunnel", aiccu.server);
            self.status.set(DriverState::Working(Some(words)));
            let pause = match tic::fetch(request(account), &self.connects).await {
                Ok(Outcome::Parameters(parameters)) => {
                    if let Err(error) = self.cache.save(&self.name, &query, &parameters).await {
                        warn!(
                            "{}: save the parameters from the broker: {error:#}",
                            self.name
                        );
                    }
                    return parameters;
                }
                // The request was for parameters only.
                Ok(Outcome::Tunnels(_) | Outcome::Pops(_)) => backoff.after_failure(),
                Err(error) => self.pause_after(&error, &mut backoff),
            };
            sleep(pause).await;
        }
    }

    /// Reports an error, and returns the pause after it.
    fn pause_after(&self, error: &tic::Error, backoff: &mut Backoff) -> Duration {
        match error.retry() {
            Retry::After(wait) if wait.why.is_lockout() => {
                self.status.set(DriverState::LockedOut(LockedOut {
                    until_unix: self
                        .clock
                        .unix_seconds()
                        .saturating_add(wait.remaining.as_secs()),
                    reason: error.to_string(),
                }));
                wait.remaining.min(SLOT_RETRY)
            }
            Retry::After(wait) => {
                let words = match error {
                    tic::Error::Wait { server, wait } => {
                        format!("{server}: {}", self.describe_wait(wait))
                    }
                    error => error.to_string(),
                };
                self.status.set(DriverState::Working(Some(words)));
                wait.remaining.min(SLOT_RETRY)
            }
            Retry::Later => {
                self.status.set(DriverState::Retrying(error.to_string()));
                backoff.after_failure()
            }
            Retry::WhenChanged => {
                self.status.set(DriverState::Failed(error.to_string()));
                REFUSED_PAUSE
            }
        }
    }

    /// Runs the user's script once, in a task, as soon as the interface exists. Its outcome is only logged.
    fn run_setup_script(&self, script: String) {
        let name = self.name.clone();
        let mut status = self.status.subscribe();
        tokio::task::spawn_local(async move {
            if status
                .wait_for(|status| status.has_made_interface)
                .await
                .is_err()
            {
                // The tunnel has ended before.
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
