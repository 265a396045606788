//! Requests to the daemon.
//!
//! The control server, the exporter and the daemon's loop import this file. It imports none of them.

use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::control::api;

/// The receiver of the result of a request.
pub type Answer<T> = oneshot::Sender<T>;

/// The result of an action; the error is a message for the user.
pub type Outcome = Result<(), String>;

/// The sending end of the daemon's queue of requests.
pub type Requests = mpsc::Sender<Request>;

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
