//! Tasks that query the daemon, and their messages.
//!
//! Tasks: [`poll`] gets the status, [`follow`] receives alerts; both run until they are aborted, or the
//! receiver is gone. [`request`] ends with its action.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::Sender,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::super::change_tunnels;
use crate::control::{Verb, api::Status, client};

/// Time limit for an answer, after which the daemon counts as unreachable; normally it takes milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Pause before connecting to a daemon that is gone.
const AGAIN: Duration = Duration::from_secs(1);

/// A message from the daemon.
#[derive(Debug)]
pub(super) enum News {
    Status(Box<Status>, Instant),
    /// The daemon does not answer, for this reason.
    Lost(String),
    /// A line of JSON.
    Alert(String),
    Done(Verb, String, anyhow::Result<()>),
}

/// Gets the status at each tick.
pub(super) async fn poll(socket: PathBuf, every: Duration, news: Sender<News>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = timeout(ANSWERS_WITHIN, client::get(&socket, "/v1/status"));
        let one = match answer.await {
            Ok(Ok(status)) => News::Status(Box::new(status), Instant::now()),
            Ok(Err(error)) if error.is::<client::NoDaemon>() => {
                News::Lost("it is not running".to_owned())
            }
            Ok(Err(error)) => News::Lost(format!("{error:#}")),
            Err(_) => News::Lost("it is running, but does not answer".to_owned()),
        };
        if news.send(one).await.is_err() {
            return;
        }
    }
}

/// Receives alerts, the earlier ones first. [`poll`] reports whether the daemon is there.
pub(super) async fn follow(socket: PathBuf, news: Sender<News>) {
    while !news.is_closed() {
        let ended = client::lines(&socket, "/v1/alerts?follow=true", |line| {
            // If alerts come too fast, the connection ends, and the next one repeats them.
            Ok(news.try_send(News::Alert(line.to_owned()))?)
        });
        // Connect again after any error.
        let _unused = ended.await;
        sleep(AGAIN).await;
    }
}

/// Makes the daemon start, stop or restart a tunnel.
pub(super) async fn request(socket: PathBuf, verb: Verb, name: String, news: Sender<News>) {
    let outcome = change_tunnels(&socket, verb, vec![name.clone()], false).await;
    // An error means that the screen has ended.
    let _unread = news.send(News::Done(verb, name, outcome)).await;
}
