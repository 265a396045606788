//! Requests to the daemon.
//!
//! The control server, the HTTP server and the daemon's loop import this file. It imports none of them.

use std::time::Duration;

use anyhow::anyhow;
use sixxs_core::{
    config::Refused, diagnostics::Invalid, inside_test::request::Number, types::IfName,
};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{bpf::LiveTest, control::api, host::config_file};

/// The receiver of the result of a request.
pub type Answer<T> = oneshot::Sender<T>;

/// The result of an action.
pub type Outcome = Result<(), ActionError>;

/// Why an action failed, or was refused. The text is for the user.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// No tunnel has this name.
    #[error("no tunnel {name:?}; there are {known}")]
    NoSuchTunnel {
        /// The name in the request.
        name: String,
        /// The names of all tunnels.
        known: String,
    },
    /// The tunnel of this account file is not running.
    #[error("the tunnel of {0} is not running")]
    NotRunning(String),
    /// The driver of this tunnel is being stopped.
    #[error("{0} is being stopped; try again in a moment")]
    Stopping(IfName),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config_file::Error),
    /// The account file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] config_file::UnreadableSecret),
    /// The account file is wrong.
    #[error(transparent)]
    Account(#[from] Invalid),
    /// The tunnel of an account does not fit into the configuration.
    #[error(transparent)]
    DoesNotFit(#[from] Refused),
    /// The new configuration does not fit a tunnel that an account has started.
    #[error("{0}: it was started by its account; stop it first")]
    Conflict(Refused),
    /// No reload waits for its confirmation.
    #[error("there is nothing to confirm; has its time run out?")]
    NothingToConfirm,
    /// A broker allows no connect now, so the restart would leave the tunnel down.
    #[error("{0:#}")]
    NoConnectLeft(anyhow::Error),
    /// The action was carried out, with these problems.
    #[error("{}", .0.join("; "))]
    Problems(Vec<String>),
}

/// The sending end of the daemon's queue of requests.
pub type Requests = mpsc::Sender<Request>;

/// Sends a request to the daemon, and waits for the answer.
pub(crate) async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> anyhow::Result<T> {
    let (answer_to, answer) = oneshot::channel();
    requests
        .send(request(answer_to))
        .await
        .map_err(|_| anyhow!("the daemon is ending"))?;
    answer.await.map_err(|_| anyhow!("the daemon is ending"))
}

/// An action on tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Starts a tunnel that is stopped.
    Start,
    /// Stops a tunnel that is started.
    Stop,
    /// Stops a tunnel, and starts it again.
    Restart,
}

impl Verb {
    /// The name in the control socket's paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// A request that the daemon's loop answers.
#[derive(Debug)]
pub enum Request {
    /// The status.
    Status(Answer<anyhow::Result<api::Status>>),
    /// All counters.
    Counters(Answer<anyhow::Result<api::Counters>>),
    /// All metrics, as text.
    Metrics(Answer<anyhow::Result<String>>),
    /// The alerts so far, and a receiver for those to come.
    Alerts(Answer<(Vec<api::Alert>, broadcast::Receiver<api::Alert>)>),
    /// The steps and problems that are left.
    Plan(Answer<anyhow::Result<api::Plan>>),
    /// Carries out inside tests of tunnels.
    Inside(api::InsideRequest, Answer<anyhow::Result<api::InsideTests>>),
    /// Begins a live test of a packet that a client is about to send.
    Live(api::LiveRequest, Answer<anyhow::Result<(Number, LiveTest)>>),
    /// Carries out outside tests between links.
    Outside(
        api::OutsideRequest,
        Answer<anyhow::Result<api::OutsideTests>>,
    ),
    /// Starts, stops or restarts tunnels by name.
    Tunnels(Verb, api::Names, Answer<Outcome>),
    /// Starts or stops the tunnel of an account.
    Account(Verb, api::AccountFile, Answer<Outcome>),
    /// The changes that a reload would make.
    Preview(api::CheckReload, Answer<anyhow::Result<api::Preview>>),
    /// Reloads the configuration file; reverts after this time unless it is confirmed.
    Reload(Option<Duration>, Answer<Outcome>),
    /// Confirms the last reload.
    Confirm(Answer<Outcome>),
}

/// Ends the daemon.
#[derive(Debug)]
pub struct Quit {
    /// Whether to stop the tunnels.
    pub stop: bool,
    /// Receives a message once the daemon has ended.
    pub done: Answer<()>,
}
